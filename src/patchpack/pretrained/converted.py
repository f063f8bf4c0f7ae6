"""What a family makes of a source: a model of this library, its tensors, and its preprocessing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from patchpack.data.tokenizer import Tokenizer
from patchpack.inference.model_spec import ModelSpec
from patchpack.model.navit import NaViTConfig
from patchpack.pretrained.blocks import put
from patchpack.pretrained.errors import PretrainedError
from patchpack.pretrained.folds import fold_normalization
from patchpack.pretrained.images import ImageInput
from patchpack.pretrained.weights import Affine
from patchpack.tasks.classification.model import ClassificationConfig
from patchpack.tasks.contrastive.model import ContrastiveConfig


class TextSide(NamedTuple):
    """What an image-text model has beside its image tower."""

    config: ContrastiveConfig
    tensors: Mapping[str, Tensor]  # text tower, projections, scale and bias of the logits
    tokenizer: Tokenizer


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A converted model. Without classes and texts, it gives tokens and feature vectors only."""

    family: str
    model: NaViTConfig
    tensors: Mapping[str, Tensor]  # of the module: backbone.*, head.* …
    classes: tuple[str, ...] = ()
    image: ImageInput
    texts: TextSide | None = None  # of an image-text model
    left_out: tuple[str, ...] = ()  # tensors of the source that the model does not need

    @property
    def spec(self) -> ModelSpec:
        """The spec that the model is loaded with."""
        return ModelSpec(
            model=self.model,
            task=self.texts.config if self.texts else ClassificationConfig(),
            classes=self.classes,
            tokenizer=self.texts.tokenizer if self.texts else None,
            resolution=self.image.resolution(),
            eval_tokens=self.image.eval_tokens(self.model.patch_size),
        )

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(tensor.numel() for tensor in self.tensors.values())


def converted(
    family: str,
    model: NaViTConfig,
    backbone: Mapping[str, Tensor],
    embedding: Affine,
    image: ImageInput,
    *,
    head: Affine | None = None,
    classes: tuple[str, ...] = (),
    texts: TextSide | None = None,
    left_out: tuple[str, ...] = (),
) -> Converted:
    """Put a model together; the pixel normalization is folded into its patch embedding.

    embedding  of pixels as the source normalizes them
    """
    tensors = {f"backbone.{name}": tensor for name, tensor in backbone.items()}
    put(tensors, "backbone.embedding", fold_normalization(embedding, image.mean, image.std))
    if head is not None:
        put(tensors, "head", head)
    if texts is not None:
        tensors |= texts.tensors
    return Converted(
        family=family, model=model, tensors=tensors, classes=classes,
        image=image, texts=texts, left_out=left_out,
    )  # fmt: skip


def numbered_classes(count: int) -> tuple[str, ...]:
    """Names of classes that a source does not name: their numbers, with leading zeros."""
    width = len(str(max(0, count - 1)))
    return tuple(f"{number:0{width}d}" for number in range(count))


def named_classes(labels: object, count: int, source: str) -> tuple[str, ...]:
    """Class names of a source, from a list or from a mapping of numbers; repeated names get their
    number. Raise PretrainedError where their count differs."""
    if labels is None:
        return numbered_classes(count)
    if isinstance(labels, Mapping):
        labels = [labels.get(str(number), labels.get(number)) for number in range(len(labels))]
    names = list(labels) if isinstance(labels, list | tuple) else []
    if len(names) != count or not all(isinstance(name, str) for name in names):
        raise PretrainedError(
            f"{source}: the config names {len(names)} classes, the head has {count}"
        )
    repeated = {name for name in names if names.count(name) > 1}
    return tuple(f"{n} ({i})" if n in repeated else n for i, n in enumerate(names))
