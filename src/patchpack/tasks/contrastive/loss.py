"""Contrastive losses over the pairs of all processes, in chunks of the matrix of logits.

Image i belongs to text i; every other text of the step, on any process, is a negative.

              texts of all processes
    images  ┌──────────────────────────┐
    of this │ a chunk of rows at a time│   forward: log-sum-exp of rows, and of columns so far
    process │                          │   backward: the chunk recomputed, its gradient added
            └──────────────────────────┘

Processes may hold different numbers of pairs, also none. Each returns the sum over its pairs; the
backward pass gives its embeddings the gradient of the sum over all processes, so all processes must
scale it equally, as a training loop does that divides by the global count.

Axes: pair (of this process), all (pairs of all processes), row (some of this process's pairs).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from patchpack.distributed import all_gather_rows, all_reduce_tensor
from patchpack.losses import Loss

CELLS = 1 << 22  # logits per chunk: 16 MiB, several times

Vectors = Float[Tensor, "pair dim"]
Scalar = Float[Tensor, ""]


def softmax_contrastive(images: Vectors, texts: Vectors, scale: Scalar) -> Loss:
    """Softmax cross-entropy of each image with its text and of each text with its image, halved.

    Logits are scale · images · textsᵀ (Radford et al., arXiv 2103.00020, Fig. 3); in chunks as in
    the paper (arXiv 2307.06304, §2.2).
    """
    return _loss(images, texts, scale, torch.zeros_like(scale), "softmax")


def sigmoid_contrastive(images: Vectors, texts: Vectors, scale: Scalar, bias: Scalar) -> Loss:
    """One binary cross-entropy for each image with each text, summed over texts.

    Logits are scale · images · textsᵀ + bias (Zhai et al., arXiv 2303.15343, §3.2).
    """
    return _loss(images, texts, scale, bias, "sigmoid")


Kind = Literal["softmax", "sigmoid"]


def _loss(images: Vectors, texts: Vectors, scale: Scalar, bias: Scalar, kind: Kind) -> Loss:
    if images.shape != texts.shape:
        raise ValueError(f"{list(images.shape)} images for {list(texts.shape)} texts")
    total = _Chunked.apply(images.float(), texts.float(), scale.float(), bias.float(), kind)
    return Loss(total, len(images))  # pyrefly: ignore


@dataclass(frozen=True)
class _Sides:
    """Embeddings, scale and bias that a chunk of logits is computed from."""

    images: Vectors
    texts: Float[Tensor, "all dim"]
    local: slice  # rows of `texts` that belong to this process
    scale: Scalar
    bias: Scalar

    def chunks(self) -> Iterator[tuple[slice, Float[Tensor, "row all"]]]:
        """Slices of rows and their cosines, one chunk at a time."""
        rows = max(1, CELLS // max(1, len(self.texts)))
        for start in range(0, len(self.images), rows):
            piece = slice(start, start + rows)
            yield piece, self.images[piece] @ self.texts.T

    def logits(self, cosines: Float[Tensor, "row all"]) -> Float[Tensor, "row all"]:
        return cosines * self.scale + self.bias

    def diagonal(self, rows: slice) -> Float[Tensor, " row"]:
        """Logits of the pairs."""
        texts = self.texts[self.local][rows]
        return self.logits((self.images[rows] * texts).sum(1))


class _Chunked(torch.autograd.Function):
    """The sum of a loss over the pairs of this process."""

    @staticmethod
    def forward(
        ctx: Any, images: Vectors, texts: Vectors, scale: Scalar, bias: Scalar, kind: Kind
    ) -> Scalar:
        with torch.autocast(images.device.type, enabled=False):
            all_texts, local = all_gather_rows(texts)
            sides = _Sides(images, all_texts, local, scale, bias)
            total, sums = _softmax(sides) if kind == "softmax" else _sigmoid(sides)
        ctx.save_for_backward(images, all_texts, scale, bias, *sums)
        ctx.local, ctx.kind = local, kind
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Scalar) -> tuple[Tensor | None, ...]:  # pyrefly: ignore
        images, all_texts, scale, bias, *sums = ctx.saved_tensors
        sides = _Sides(images, all_texts, ctx.local, scale, bias)
        d_images, d_texts = torch.zeros_like(images), torch.zeros_like(all_texts)
        d_scale, d_bias = torch.zeros_like(scale), torch.zeros_like(bias)
        with torch.autocast(images.device.type, enabled=False):
            for rows, cosines in sides.chunks():
                logits = sides.logits(cosines)
                if ctx.kind == "softmax":
                    by_row, by_column = sums
                    slopes = (logits - by_row[rows, None]).exp_()
                    slopes += logits.sub_(by_column).exp_()
                    slopes *= 0.5
                else:
                    slopes = logits.sigmoid_()
                slopes.diagonal(ctx.local.start + rows.start).sub_(1)  # images with their own texts
                d_scale += (slopes * cosines).sum()
                d_bias += slopes.sum()
                d_images[rows] = slopes @ all_texts
                d_texts.addmm_(slopes.T, images[rows])
            d_texts = all_reduce_tensor(d_texts)[ctx.local]
        factor = grad * scale
        return d_images * factor, d_texts * factor, grad * d_scale, grad * d_bias, None


def _softmax(sides: _Sides) -> tuple[Scalar, list[Tensor]]:
    """The loss, and the log-sum-exp of each row and each column."""
    by_row = sides.images.new_empty(len(sides.images))
    highest = sides.texts.new_full((len(sides.texts),), -torch.inf)  # of each column so far
    sums = torch.zeros_like(highest)  # of exp(logit - highest)
    diagonal = torch.zeros_like(sides.scale)
    for rows, cosines in sides.chunks():
        logits = sides.logits(cosines)
        by_row[rows] = logits.logsumexp(1)
        raised = torch.maximum(highest, logits.amax(0))
        sums = sums * (highest - raised).exp() + (logits - raised).exp_().sum(0)
        highest = raised
        diagonal += sides.diagonal(rows).sum()
    overall = all_reduce_tensor(highest.clone(), "max")
    sums = all_reduce_tensor(sums * (highest - overall).exp())
    by_column = overall + sums.log()
    total = 0.5 * (by_row.sum() + by_column[sides.local].sum()) - diagonal
    return total, [by_row, by_column]


def _sigmoid(sides: _Sides) -> tuple[Scalar, list[Tensor]]:
    """The loss; the backward pass needs nothing more of the matrix."""
    total = torch.zeros_like(sides.scale)
    for rows, cosines in sides.chunks():
        total += F.softplus(sides.logits(cosines)).sum() - sides.diagonal(rows).sum()
    return total, []
