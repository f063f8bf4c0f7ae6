"""Semantic segmentation: a class for every pixel, from the tokens of an image's patches.

A decoder gives class scores to tokens; their map is enlarged to the pixels, bilinearly. Either is
Segmenter's (Strudel et al., arXiv 2105.05633, §3.2): one linear layer, or a mask transformer, whose
learned class tokens attend to the patches and are compared with them.

Axes: token, image, label, dim; height and width in pixels, h and w in patches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from patchpack.batch import IGNORE_INDEX, PackedBatch, Segments
from patchpack.losses import Loss, dice_loss, pixel_cross_entropy
from patchpack.model.attention import Attend
from patchpack.model.attention_layout import AttentionLayout
from patchpack.model.encoder import Encoder, encoder_flops, init_submodules
from patchpack.model.feature_maps import kept_map, to_maps
from patchpack.model.navit import NaViTConfig, prepend_tokens
from patchpack.tasks.backbone_module import DenseBackboneModule, check_unique_class_names

MASK = "mask"  # the target this task reads: the class of every pixel, of one image each


@dataclass(frozen=True)
class LinearDecoder:
    """One linear layer on every token."""

    def build(self, model: NaViTConfig, num_classes: int) -> nn.Module:
        return Linear(model.dim, num_classes)


@dataclass(frozen=True)
class MaskTransformer:
    """Blocks over the patches of an image and a learned token for each class."""

    depth: int = 2

    def build(self, model: NaViTConfig, num_classes: int) -> nn.Module:
        return MaskTransformerDecoder(replace(model, depth=self.depth), num_classes)


Decoder = LinearDecoder | MaskTransformer


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig:
    """How pixels are told apart."""

    classes: tuple[str, ...] = ()  # of the masks' numbers 0, 1, …; those of classes.json when empty
    ignore_index: int | None = None  # number of pixels in masks that are neither learned nor judged
    decoder: Decoder = field(default_factory=LinearDecoder)
    class_weights: tuple[float, ...] = ()  # of each class's pixels in the loss; all 1 when empty
    dice_weight: float = 0.0  # weight of the dice loss beside the cross-entropy of pixels

    def __post_init__(self) -> None:
        check_unique_class_names(self.classes)
        if self.dice_weight < 0 or any(weight < 0 for weight in self.class_weights):
            raise ValueError("dice and class_weights must not be negative")
        if self.class_weights and not any(self.class_weights):
            raise ValueError("class_weights must not all be 0: nothing would be learned")
        weights, names = len(self.class_weights), len(self.classes)
        if weights and names and weights != names:
            raise ValueError(f"{weights} class_weights for {names} classes")


class Segmenter(DenseBackboneModule):
    """Packed images in, scores of classes for every token or pixel out."""

    def __init__(
        self, model: NaViTConfig, num_classes: int, config: SegmentationConfig | None = None
    ) -> None:
        super().__init__(model)
        self.config = config or SegmentationConfig()
        self.num_classes = num_classes
        self.head = self.config.decoder.build(model, num_classes)
        weights = torch.tensor(self.config.class_weights or (1.0,) * num_classes)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(
        self, batch: PackedBatch, attend: Attend | None = None
    ) -> Float[Tensor, "token label"]:
        return self.head(self.tokens(batch, attend), batch.segments)

    def pixels(
        self, batch: PackedBatch, sizes: Sequence[tuple[int, ...]]
    ) -> list[Float[Tensor, "label height width"]]:
        """Scores at every pixel of images of these (height, width)."""
        return upsample(to_maps(self(batch).float(), batch), sizes)

    def classes(
        self, batch: PackedBatch, sizes: Sequence[tuple[int, ...]]
    ) -> Iterator[Int[Tensor, "height width"]]:
        """The class of every pixel of images of these (height, width), one image at a time."""
        maps = to_maps(self(batch).float(), batch)
        return (argmax_pixels(x, size) for x, size in zip(maps, sizes, strict=True))

    def loss(self, batch: PackedBatch) -> Loss:
        """Over the pixels that have a class and lie in a patch that was kept."""
        masks = batch.targets.get(MASK, [])
        if len(masks) != batch.num_images:
            raise ValueError(f"segmentation needs the target {MASK!r} for every image")
        sizes = [tuple(mask.shape) for mask in masks]
        total = self._nothing(batch)
        if not masks:
            return Loss(total, 0)
        scores = self.pixels(batch, sizes)
        count = torch.zeros((), dtype=torch.int64, device=total.device)
        for mine, mask, kept in zip(scores, masks, kept_map(batch), strict=True):
            seen = F.interpolate(kept[None, None].float(), mask.shape, mode="nearest")[0, 0] > 0
            truth = torch.where(seen, mask.long(), IGNORE_INDEX)
            known = (truth != IGNORE_INDEX).sum()
            total = total + pixel_cross_entropy(mine, truth, self.class_weights, IGNORE_INDEX)
            if self.config.dice_weight:  # of an image; weighed by its pixels, as all the rest is
                total = total + self.config.dice_weight * known * dice_loss(
                    mine, truth, IGNORE_INDEX
                )
            count = count + known
        return Loss(total, int(count))

    def _nothing(self, batch: PackedBatch) -> Float[Tensor, ""]:
        """Zero, and of every weight: an empty pack gives each a gradient too."""
        if batch.num_images:
            return torch.zeros((), device=batch.patches.device)
        return 0 * torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum()

    def flops(self, lengths: Sequence[int]) -> int:
        """Operations of one forward pass over images of these lengths (`token_flops`)."""
        return self.backbone_flops(lengths) + self.head.flops(lengths)  # pyrefly: ignore

    def training_flops(self, batch: PackedBatch) -> int:
        """Operations of a forward and a backward pass."""
        head = self.head.flops(batch.lengths)  # pyrefly: ignore
        return self.backbone_training_flops(batch.lengths) + 3 * head


def upsample(
    maps: Sequence[Float[Tensor, "label h w"]], sizes: Sequence[tuple[int, ...]]
) -> list[Float[Tensor, "label height width"]]:
    """Each map at its own size in pixels, bilinear."""
    return [
        F.interpolate(x[None], size, mode="bilinear", align_corners=False)[0]
        for x, size in zip(maps, sizes, strict=True)
    ]


def argmax_pixels(
    scores: Float[Tensor, "label h w"], size: tuple[int, ...], at_once: int = 16
) -> Int[Tensor, "height width"]:
    """The class with the highest score at every pixel, few of them enlarged at a time: a photograph
    and a hundred classes would fill the memory."""
    best = torch.full(size, -torch.inf, device=scores.device)
    label = torch.zeros(size, dtype=torch.uint8, device=scores.device)
    for start in range(0, len(scores), at_once):
        (some,) = upsample([scores[start : start + at_once]], [size])
        high, place = some.max(0)
        label = torch.where(high > best, (place + start).to(torch.uint8), label)
        best = torch.maximum(best, high)
    return label


class Linear(nn.Linear):
    """Scores of classes from each token by itself."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__(dim, num_classes)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(  # pyrefly: ignore
        self, x: Float[Tensor, "token dim"], segments: Segments
    ) -> Float[Tensor, "token label"]:
        return super().forward(x)

    def flops(self, lengths: Sequence[int]) -> int:
        return 2 * self.weight.numel() * sum(lengths)


class MaskTransformerDecoder(nn.Module):
    """Scores of classes from how near patches are to the tokens of classes (Segmenter, eq. 4)."""

    def __init__(self, config: NaViTConfig, num_classes: int) -> None:
        super().__init__()
        self.encoder_config, self.num_classes = config, num_classes
        dim = config.dim
        self.patches = nn.Linear(dim, dim)
        self.class_tokens = nn.Parameter(torch.empty(num_classes, dim))
        self.encoder = Encoder(config)
        self.patch_proj = nn.Linear(dim, dim, bias=False)
        self.class_proj = nn.Linear(dim, dim, bias=False)
        self.norm = nn.LayerNorm(num_classes)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        init_submodules(self)
        nn.init.normal_(self.class_tokens, std=0.02)

    def forward(
        self, x: Float[Tensor, "token dim"], segments: Segments
    ) -> Float[Tensor, "token label"]:
        stream, places, before = prepend_tokens(self.patches(x), self.class_tokens, segments)
        extended = segments.extended(self.num_classes)
        stream = self.encoder(stream, AttentionLayout.within(extended))
        patches = F.normalize(self.patch_proj(stream[places]), dim=-1)
        classes = F.normalize(self.class_proj(stream[before]), dim=-1)
        own = classes.unflatten(0, (segments.num_images, self.num_classes))
        scores = [
            mine @ names.T
            for mine, names in zip(patches.split(list(segments.lengths)), own, strict=True)
        ]
        return self.norm(torch.cat([patches.new_empty(0, self.num_classes), *scores]))

    def flops(self, lengths: Sequence[int]) -> int:
        c, dim = self.num_classes, self.encoder_config.dim
        tokens, images = sum(lengths), len(lengths)
        outside = 2 * dim * (2 * dim * tokens + dim * c * images + c * tokens)
        return outside + encoder_flops(self.encoder_config, [n + c for n in lengths])
