"""Confusion of many classes: only the cells that occur are stored.

A dense matrix of 10,000 classes has 800 MB; a set of images has at most one cell per image.

Axes: image, label, cell.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class ConfusedPair(NamedTuple):
    """Images of one class that are predicted as another."""

    true: int
    predicted: int
    images: int


@dataclass(frozen=True, eq=False)
class Confusion:
    """Additive counts of (true, predicted) classes; `a + b` merges packs or processes."""

    num_classes: int
    cells: Int[Tensor, " cell"]  # true · num_classes + predicted, ascending
    counts: Int[Tensor, " cell"]  # images of each cell, at least 1

    @staticmethod
    def none(num_classes: int) -> "Confusion":
        """Return the counts of zero images."""
        empty = torch.empty(0, dtype=torch.int64)
        return Confusion(num_classes, empty, empty)

    @staticmethod
    def of(
        true: Int[Tensor, " image"], predicted: Int[Tensor, " image"], num_classes: int
    ) -> "Confusion":
        """Return the counts of images with these class indices."""
        cells, counts = torch.unique(true.long() * num_classes + predicted, return_counts=True)
        return Confusion(num_classes, cells, counts)

    @staticmethod
    def merge(parts: Sequence["Confusion"]) -> "Confusion":
        """Return the sum of one or more counts."""
        cells, inverse = torch.unique(torch.cat([p.cells for p in parts]), return_inverse=True)
        counts = torch.zeros_like(cells)
        counts.index_add_(0, inverse, torch.cat([p.counts for p in parts]))
        return Confusion(parts[0].num_classes, cells, counts)

    def __add__(self, other: "Confusion") -> "Confusion":
        return Confusion.merge([self, other])

    @property
    def true(self) -> Int[Tensor, " cell"]:
        """True class of each cell."""
        return self.cells // self.num_classes

    @property
    def predicted(self) -> Int[Tensor, " cell"]:
        """Predicted class of each cell."""
        return self.cells % self.num_classes

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.counts.sum())

    @property
    def correct(self) -> int:
        """Number of images whose predicted class is the true one."""
        return int(self.counts[self.true == self.predicted].sum())

    @property
    def recall(self) -> Float[Tensor, " label"]:
        """Share of correct images of each class, in [0, 1]; NaN for a class without images."""
        on_diagonal = self.counts * (self.true == self.predicted)
        return self._sums(on_diagonal) / self._sums(self.counts)

    def _sums(self, counts: Int[Tensor, " cell"]) -> Float[Tensor, " label"]:
        return torch.bincount(self.true, counts.double(), self.num_classes)

    def dense(self) -> Int[Tensor, "label label"]:
        """Return the matrix [true, predicted] of all classes: num_classes² numbers."""
        return self.among(torch.arange(self.num_classes))

    def among(self, classes: Int[Tensor, " label"]) -> Int[Tensor, "label label"]:
        """Return the matrix [true, predicted] of some classes; other classes are left out."""
        row = torch.full((self.num_classes,), -1)
        row[classes] = torch.arange(len(classes))
        true, predicted = row[self.true], row[self.predicted]
        inside = (true >= 0) & (predicted >= 0)
        matrix = torch.zeros(len(classes), len(classes), dtype=torch.int64)
        matrix[true[inside], predicted[inside]] = self.counts[inside]
        return matrix

    def confused_pairs(self) -> list[ConfusedPair]:
        """Return every pair of different classes that occurs, the most images first."""
        wrong = self.true != self.predicted
        order = self.counts[wrong].argsort(descending=True, stable=True)
        columns = (values[wrong][order].tolist() for values in (self.true, self.predicted))
        triples = zip(*columns, self.counts[wrong][order].tolist(), strict=True)
        return [ConfusedPair(*triple) for triple in triples]

    def most_confused(self, limit: int) -> Int[Tensor, " label"]:
        """Return up to `limit` classes, ascending: all, or those with the most wrong images.

        A wrong image counts for its true class and for its predicted one.
        """
        if self.num_classes <= limit:
            return torch.arange(self.num_classes)
        wrong = self.counts * (self.true != self.predicted)
        errors = torch.zeros(self.num_classes, dtype=torch.int64)
        errors.index_add_(0, self.true, wrong).index_add_(0, self.predicted, wrong)
        return errors.argsort(descending=True, stable=True)[:limit].sort().values
