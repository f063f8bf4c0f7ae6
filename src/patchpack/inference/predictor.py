"""What all trained models can do: turn images of any size into vectors."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchpack.batch import ClipPatches, PackedBatch, Patches, collate
from patchpack.data.pack import AnyImage, check_list, to_patches
from patchpack.data.packing.resolution import Resolution
from patchpack.inference.model_spec import ModelSpec
from patchpack.inference.operating_point import OperatingPoint

PACK_TOKENS = 8192  # at most, in one forward pass
P = TypeVar("P", Patches, ClipPatches)


class Predictor:
    """A model ready for use, on one device."""

    kind, kinds = "a model of images", "models of images"

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
        """Numbers in the vector of an image."""
        return self.spec.model.dim

    def embed(
        self, images: Sequence[AnyImage], *, max_tokens: int | None = None
    ) -> Float[np.ndarray, "image dim"]:
        """The vector of each image, float32, in the order given.

        Raises BadImage for a file that cannot be read, ValueError for anything else wrong.
        """
        vectors = [self.vectors(batch) for batch in self.packs(images, max_tokens)]
        if not vectors:
            return np.empty((0, self.dim), np.float32)
        return torch.cat(vectors).numpy()

    @torch.inference_mode()
    def vectors(self, batch: PackedBatch) -> Float[Tensor, "image dim"]:
        """The vectors of a pack, float32 on the host."""
        with self.precision():
            return self.model.encode(batch.to(self.device)).pooled.float().cpu()

    def as_chosen(
        self,
        logits_of: Callable[[Sequence[AnyImage], int | None], Float[Tensor, "image label"]],
        images: Sequence[AnyImage],
        max_tokens: int | None,
    ) -> Float[Tensor, "image label"]:
        """Logits as was chosen for the model: at its budget unless another is asked for, of images
        that it is not sure of again with more, and divided by its temperature."""
        chosen = self.operating_point
        logits = logits_of(images, chosen.max_tokens if max_tokens is None else max_tokens)
        if max_tokens is None and chosen.second_pass_tokens is not None:
            unsure = (
                (self.probabilities(logits).amax(1) < chosen.threshold).nonzero()[:, 0].tolist()
            )
            logits[unsure] = logits_of([images[i] for i in unsure], chosen.second_pass_tokens)
        return logits / chosen.temperature

    def probabilities(self, logits: Float[Tensor, "image label"]) -> Float[Tensor, "image label"]:
        """What the model says of each label."""
        return logits.softmax(1)

    def precision(self) -> torch.autocast:
        """The precision that the model was trained in."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def packs(
        self,
        images: Sequence[AnyImage],
        max_tokens: int | None,
        resolution: Resolution | None = None,
    ) -> Iterator[PackedBatch]:
        """Packs of at most PACK_TOKENS, or of one larger image, in the order given.

        resolution  another rule for sizes than the model's own
        """
        check_list(images)
        tokens = self.tokens_of(max_tokens)
        model, rule = self.spec.model, resolution or self.spec.resolution.for_evaluation(tokens)
        cut = (
            to_patches(
                image, f"image {number}", model.patch_size, tokens, rule, model.positions.max_side
            )
            for number, image in enumerate(images)
        )
        return (collate(group, model.patch_dim) for group in in_packs(cut))

    def tokens_of(self, max_tokens: int | None) -> int:
        """As asked for, or as trained; raises ValueError for less than one."""
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
        return max_tokens or self.spec.eval_tokens


def in_packs(cut: Iterable[P]) -> Iterator[list[P]]:
    """Groups of at most PACK_TOKENS, or of one larger image, in the order given."""
    waiting, room = [], PACK_TOKENS
    for patches in cut:
        if waiting and len(patches.patches) > room:
            yield waiting
            waiting, room = [], PACK_TOKENS
        waiting.append(patches)
        room -= len(patches.patches)
    if waiting:
        yield waiting
