"""What all predictors share: packs of images of any size, feature vectors, the operating point.

    image files or arrays → patches at a token budget → packs → forward passes → rows, in order

A file gives the same patches here as in evaluation, so logits agree with those that a temperature
or a threshold was fitted on.

Axes: image, label, dim.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchpack.batch import ClipPatches, PackedBatch, Patches, collate
from patchpack.data.images import BadImage
from patchpack.data.pack import AnyImage, check_list, image_key, to_patches, to_pixels
from patchpack.data.packing.resolution import Resolution
from patchpack.inference.model_spec import ModelSpec
from patchpack.inference.operating_point import OperatingPoint, check_tokens

PACK_TOKENS = 8192  # maximum tokens per forward pass, but for a single larger image
P = TypeVar("P", Patches, ClipPatches)
Prepared = TypeVar("Prepared")
Unreadable = list[BadImage] | None
"""Collects the images that cannot be read; they get no row. None: the first one is raised."""


class Predictor:
    """A trained model on one device. Each task has a subclass with its own `predict`."""

    description = "a model of images"  # names the kind of model in error messages
    full_size_decode = False  # True: large JPEGs are not decoded at a fraction of their size

    def __init__(
        self,
        model: Any,
        spec: ModelSpec,
        device: torch.device,
        operating_point: OperatingPoint | None = None,
    ) -> None:
        self.model, self.spec, self.device = model.to(device).eval(), spec, device
        self.operating_point = operating_point or OperatingPoint()
        self.dtype: torch.dtype = getattr(torch, spec.dtype)

    @property
    def dim(self) -> int:
        """Length of an image's feature vector."""
        return self.spec.model.dim

    @property
    def scores_labels(self) -> bool:
        """Whether the model scores labels, where its task does."""
        return True

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the labels; empty for a model without classes."""
        return self.spec.classes

    def embed(
        self,
        images: Sequence[AnyImage],
        *,
        max_tokens: int | None = None,
        unreadable: Unreadable = None,
    ) -> Float[np.ndarray, "image dim"]:
        """The feature vector of each image, float32, in the order given.

        max_tokens  maximum tokens per image; None: the budget of evaluation in training
        unreadable  collects images that cannot be read; None: raise BadImage

        Raises ValueError for an image or a budget that is not accepted.
        """
        batches = self.packs(images, max_tokens, unreadable=unreadable)
        vectors = [self.vectors(batch) for batch in batches]
        if not vectors:
            return np.empty((0, self.dim), np.float32)
        return torch.cat(vectors).numpy()

    @torch.inference_mode()
    def vectors(self, batch: PackedBatch) -> Float[Tensor, "image dim"]:
        """The feature vectors of a pack, float32 on the host."""
        with self.precision():
            return finite(self.model.encode(batch.to(self.device)).pooled.float().cpu(), batch)

    def at_operating_point(
        self,
        logits_of: Callable[[Sequence[Any], int | None, Unreadable], Tensor],
        images: Sequence[Any],
        max_tokens: int | None,
        unreadable: Unreadable = None,
    ) -> Float[Tensor, "image label"]:
        """Logits at the saved operating point: its token budget, a second pass for low-confidence
        images, temperature scaling. An explicit `max_tokens` replaces budget and second pass.
        """
        point = self.operating_point
        tokens = point.max_tokens if max_tokens is None else max_tokens
        logits = logits_of(images, tokens, unreadable)
        if max_tokens is None and point.second_pass_tokens is not None:
            confidence = self.probabilities(logits).amax(1)
            unsure = (confidence < point.threshold).nonzero()[:, 0].tolist()
            images = readable(images, unreadable)
            again = [images[i] for i in unsure]
            logits[unsure] = logits_of(again, point.second_pass_tokens, None)
        return logits / point.temperature

    def probabilities(self, logits: Float[Tensor, "image label"]) -> Float[Tensor, "image label"]:
        """Class probabilities from logits: softmax."""
        return logits.softmax(1)

    def flops(self, lengths: Sequence[int]) -> int:
        """Operations of one forward pass over images of these token counts."""
        return self.model.flops(lengths)  # pyrefly: ignore

    def precision(self) -> torch.autocast:
        """Autocast to the dtype that the model was trained in."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def packs(
        self,
        images: Sequence[AnyImage],
        max_tokens: int | None,
        *,
        resolution: Resolution | None = None,
        unreadable: Unreadable = None,
    ) -> Iterator[PackedBatch]:
        """Packs of at most PACK_TOKENS, or of one larger image, in the order given.

        resolution  another rule for sizes than the model's own
        """
        check_list(images)
        tokens = self.tokens_or_default(max_tokens)
        rule = resolution or self.spec.resolution.for_evaluation(tokens)

        def prepare(image: AnyImage, key: str) -> Patches:
            if self.full_size_decode:
                image = to_pixels(image, key, self.spec.reading)
            return to_patches(image, key, self.spec.input, tokens, rule)

        prepared = skip_unreadable(prepare, images, unreadable)
        return (collate(group, self.spec.model.patch_dim) for group in in_packs(prepared))

    def tokens_or_default(self, max_tokens: int | None) -> int:
        """The budget given, or that of evaluation in training; raises ValueError below 1."""
        if max_tokens is not None:
            check_tokens("max_tokens", max_tokens)
        return max_tokens or self.spec.eval_tokens


def finite(values: Tensor, batch: PackedBatch) -> Tensor:
    """The outputs of a model for a pack; raises ValueError where they are NaN or infinite."""
    if not values.isfinite().all():
        raise ValueError(
            f"the outputs of the model for {batch.keys[0]}, or an image of its pack, are not "
            "finite: its weights or settings are damaged, or its precision is too low"
        )
    return values


def skip_unreadable(
    prepare: Callable[[Any, str], Prepared], images: Iterable[Any], unreadable: Unreadable
) -> Iterator[Prepared]:
    """Each image prepared; one that raises BadImage goes to `unreadable`, where that is a list."""
    for number, image in enumerate(images):
        key = image_key(image, number)
        try:
            yield prepare(image, key)
        except BadImage as error:
            error = BadImage(key, error.reason)
            if unreadable is None:
                raise error from None
            unreadable.append(error)


def readable(images: Sequence[Any], unreadable: Unreadable) -> list[Any]:
    """The images that `skip_unreadable` did not leave out, in order: one for each row."""
    keys = {error.key for error in unreadable or ()}
    return [image for number, image in enumerate(images) if image_key(image, number) not in keys]


def in_packs(prepared: Iterable[P]) -> Iterator[list[P]]:
    """Groups of at most PACK_TOKENS, or of one larger image, in the order given."""
    group, capacity = [], PACK_TOKENS
    for patches in prepared:
        if group and len(patches.patches) > capacity:
            yield group
            group, capacity = [], PACK_TOKENS
        group.append(patches)
        capacity -= len(patches.patches)
    if group:
        yield group
