"""Semantic segmentation: a class for every pixel, from the tokens of an image's patches.

A decoder computes class scores of tokens; their map is upsampled bilinearly to pixels. Both
decoders are Segmenter's (Strudel et al., arXiv 2105.05633, §3.2): one linear layer, or a mask
transformer, whose learned class tokens attend to the patches and are compared with them.

Axes: token, image, label, dim; height and width in pixels, h and w in patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from patchpack.batch import IGNORE_INDEX, PackedBatch, Segments, require_batch
from patchpack.data.annotations.mask_values import MaskEncoding, encoding_of
from patchpack.inference.model_spec import TaskConfig
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
        return LinearHead(model.dim, num_classes)


@dataclass(frozen=True)
class MaskTransformer:
    """Transformer blocks over the patches of an image and a learned token for each class."""

    depth: int = 2  # transformer blocks of the decoder

    def build(self, model: NaViTConfig, num_classes: int) -> nn.Module:
        return MaskTransformerDecoder(replace(model, depth=self.depth), num_classes)


Decoder = LinearDecoder | MaskTransformer


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig(TaskConfig):
    """Classes, decoder and loss of a segmenter."""

    classes: tuple[str, ...] = ()
    """Class names of the mask values 0, 1, 2 …; empty: those of classes.json beside the data."""
    mask_values: tuple[int, ...] = ()
    """Mask value of each class, in the order of the classes; empty: 0, 1, 2 … or those of
    classes.json."""
    mask_colors: tuple[str, ...] = ()
    """Color of each class in masks of colors, in the order of the classes, RRGGBB in hexadecimal;
    empty: masks are of numbers, or of the colors of classes.json."""
    ignore_index: int | None = None
    """Mask value of pixels without a class, in loss and metrics; in masks of colors, red · 65536 +
    green · 256 + blue."""
    # Decoder from tokens to class scores.
    decoder: Decoder = field(default_factory=LinearDecoder)
    class_weights: tuple[float, ...] = ()  # weight of each class in the loss; empty: all 1
    dice_weight: float = 0.0  # weight of the dice loss, added to the cross-entropy of pixels

    def __post_init__(self) -> None:
        check_unique_class_names(self.classes)
        if self.dice_weight < 0 or any(weight < 0 for weight in self.class_weights):
            raise ValueError("dice_weight and class_weights must be at least 0")
        if self.class_weights and not any(self.class_weights):
            raise ValueError("class_weights must not all be 0: the loss would be 0")
        weights, names = len(self.class_weights), len(self.classes)
        if weights and names and weights != names:
            raise ValueError(f"{weights} class_weights for {names} classes")
        values = len(self.encoding.values)
        if values and names and values != names:
            raise ValueError(f"{values} {self.encoding.option} for {names} classes")

    @property
    def encoding(self) -> MaskEncoding:
        """How mask files write the classes."""
        return encoding_of(self.mask_values, self.mask_colors)


class Segmenter(DenseBackboneModule):
    """Packed images in, class scores for every token or pixel out."""

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

    def upsampled_logits(
        self, batch: PackedBatch, sizes: Sequence[tuple[int, ...]]
    ) -> list[Float[Tensor, "label height width"]]:
        """Class scores at every pixel of images of these (height, width)."""
        return upsample(to_maps(self(batch).float(), batch), sizes)

    def loss(self, batch: PackedBatch) -> Loss:
        """The sum over the pixels that have a class and lie in a kept patch, and their count."""
        require_batch(batch, self.backbone.config.patch_size)
        masks = batch.targets.get(MASK, [])
        if len(masks) != batch.num_images:
            raise ValueError(f"segmentation needs the target {MASK!r} for every image")
        sizes = [tuple(mask.shape) for mask in masks]
        total = self._zero(batch)
        if not masks:
            return Loss(total, 0)
        scores = self.upsampled_logits(batch, sizes)
        count = torch.zeros((), dtype=torch.int64, device=total.device)
        for logits, mask, kept in zip(scores, masks, kept_map(batch), strict=True):
            visible = F.interpolate(kept[None, None].float(), mask.shape, mode="nearest")[0, 0] > 0
            truth = torch.where(visible, mask.long(), IGNORE_INDEX)
            known = (truth != IGNORE_INDEX).sum()
            total = total + pixel_cross_entropy(logits, truth, self.class_weights, IGNORE_INDEX)
            if self.config.dice_weight:  # per image, weighted by its pixels
                total = total + self.config.dice_weight * known * dice_loss(
                    logits, truth, IGNORE_INDEX
                )
            count = count + known
        return Loss(total, int(count))

    def _zero(self, batch: PackedBatch) -> Float[Tensor, ""]:
        """Zero; of an empty pack with a zero gradient for every weight, as other processes need."""
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
    """Each map resized to its (height, width) in pixels, bilinear."""
    return [
        F.interpolate(x[None], size, mode="bilinear", align_corners=False)[0]
        for x, size in zip(maps, sizes, strict=True)
    ]


def argmax_pixels(
    scores: Float[Tensor, "label h w"], size: tuple[int, ...], at_once: int = 16
) -> Int[Tensor, "height width"]:
    """The class with the highest score at every pixel.

    at_once  classes upsampled at a time: all maps of a photograph and 100 classes would not fit
    """
    best = torch.full(size, -torch.inf, device=scores.device)
    label = torch.zeros(size, dtype=torch.uint8, device=scores.device)
    for start in range(0, len(scores), at_once):
        (logits,) = upsample([scores[start : start + at_once]], [size])
        high, index = logits.max(0)
        label = torch.where(high > best, (index + start).to(torch.uint8), label)
        best = torch.maximum(best, high)
    return label


class LinearHead(nn.Linear):
    """Class scores of each token by one linear layer."""

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
    """Class scores: cosine of patches and class tokens (Segmenter, arXiv 2105.05633, eq. 4)."""

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
        stream, patch_rows, class_rows = prepend_tokens(
            self.patches(x), self.class_tokens, segments
        )
        extended = segments.extended(self.num_classes)
        stream = self.encoder(stream, AttentionLayout.within(extended))
        patches = F.normalize(self.patch_proj(stream[patch_rows]), dim=-1)
        classes = F.normalize(self.class_proj(stream[class_rows]), dim=-1)
        per_image = classes.unflatten(0, (segments.num_images, self.num_classes))
        scores = [
            tokens @ vectors.T
            for tokens, vectors in zip(
                patches.split(list(segments.lengths)), per_image, strict=True
            )
        ]
        return self.norm(torch.cat([patches.new_empty(0, self.num_classes), *scores]))

    def flops(self, lengths: Sequence[int]) -> int:
        c, dim = self.num_classes, self.encoder_config.dim
        tokens, images = sum(lengths), len(lengths)
        outside = 2 * dim * (2 * dim * tokens + dim * c * images + c * tokens)
        return outside + encoder_flops(self.encoder_config, [n + c for n in lengths])
