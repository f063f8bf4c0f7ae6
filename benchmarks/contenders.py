"""The compared models behind one interface: images in, logits out.

Every contender gets the same images at their final size and converts them to the inputs that its
own data loader would produce (not timed). The forward pass of its model is timed, including padding
and grouping if the model does that itself.

    patchpack          one packed stream; also with compiled blocks
    timm               NaFlexVit, padded to the longest image, key-only mask; also compiled
    vit-pytorch        NaViT, groups of images padded to the longest group, full masks
    vit-pytorch nested NaViT on nested tensors
    monai              NaViT, as vit-pytorch
    siglip2            Siglip2 of transformers, padded to the longest image
    square             timm's ViT on squares of the same mean area: no packing, no padding

All have the dim, depth, heads and MLP of a Shape, query-key norm if available, and a classifier of
1,000 labels. timm and transformers import torchvision, which fails with a CPU build of PyTorch;
`stub_torchvision` defines the two operators that its import needs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import patchpack as pp
from patchpack.model.navit import NaViTConfig, forward_flops
from patchpack.tasks.classification.model import Classifier

NUM_CLASSES = 1000
Images = Sequence[np.ndarray]  # uint8 [h, w, 3], sides multiples of the patch size


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The size of a transformer; the MLP has 4 · dim hidden units."""

    dim: int
    depth: int = 12
    heads: int
    patch_size: int = 16

    @property
    def config(self) -> NaViTConfig:
        """The patchpack config of this size."""
        return NaViTConfig(
            dim=self.dim, depth=self.depth, num_heads=self.heads, mlp_dim=4 * self.dim,
            patch_size=self.patch_size,
        )  # fmt: skip


@dataclass(frozen=True)
class Contender:
    """A model with its prepared inputs."""

    name: str
    module: nn.Module
    inputs: Any
    call: Callable[[nn.Module, Any], Tensor]  # logits [image, label]

    def logits(self) -> Tensor:
        """Run the forward pass."""
        return self.call(self.module, self.inputs)

    def on(self, device: torch.device) -> "Contender":
        """Return the contender with weights and inputs on a device."""

        def move(item: Any) -> Any:
            return item.to(device) if isinstance(item, Tensor | pp.PackedBatch) else item

        return replace(self, module=self.module.to(device), inputs=tree_map(move, self.inputs))


def useful_flops(shape: Shape, images: Images) -> int:
    """Return the operations of a forward pass on the images' tokens only (`forward_flops`)."""
    return forward_flops(shape.config, lengths(shape, images))


def lengths(shape: Shape, images: Images) -> list[int]:
    """Return the tokens of each image."""
    return [image.shape[0] * image.shape[1] // shape.patch_size**2 for image in images]


def build_patchpack(shape: Shape, images: Images) -> Contender:
    ordered = sorted(images, key=lambda image: image.shape[0] * image.shape[1])
    batch = pp.pack(ordered, patch_size=shape.patch_size)
    return Contender("patchpack", Classifier(shape.config, NUM_CLASSES), batch, _plain)


def build_compiled(shape: Shape, images: Images) -> Contender:
    contender = replace(build_patchpack(shape, images), name="patchpack compiled")
    contender.module.backbone.encoder.compile_blocks()
    return contender


def build_timm(shape: Shape, images: Images) -> Contender:
    stub_torchvision()
    from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg

    config = NaFlexVitCfg(
        patch_size=shape.patch_size, embed_dim=shape.dim, depth=shape.depth,
        num_heads=shape.heads, qkv_bias=False, qk_norm=True, pos_embed="factorized",
        pos_embed_grid_size=(16, 16), use_key_only_attn_mask=True, global_pool="map",
    )  # fmt: skip
    patches, valid, coords = _padded(shape, images)
    inputs = {"patches": patches, "patch_valid": valid, "patch_coord": coords}
    return Contender("timm", NaFlexVit(config, num_classes=NUM_CLASSES), inputs, _plain)


def build_timm_compiled(shape: Shape, images: Images) -> Contender:
    contender = replace(build_timm(shape, images), name="timm compiled")
    contender.module.compile()
    return contender


def build_vit_pytorch(shape: Shape, images: Images, tokens: int = 512) -> Contender:
    stub_torchvision()
    from vit_pytorch.na_vit import NaViT

    module = NaViT(**_lucidrains(shape), token_dropout_prob=0.0)
    groups = _groups(shape, images, tokens)
    return Contender("vit-pytorch", module, groups, _plain)


def build_vit_pytorch_nested(shape: Shape, images: Images) -> Contender:
    stub_torchvision()
    from vit_pytorch.na_vit_nested_tensor import NaViT

    module = NaViT(**_lucidrains(shape), token_dropout_prob=0.0)
    return Contender("vit-pytorch nested", module, [_chw(image) for image in images], _plain)


def build_monai(shape: Shape, images: Images, tokens: int = 512) -> Contender:
    from monai.networks.nets.navit import NaViT

    module = NaViT(
        image_size=TABLE * shape.patch_size, patch_size=shape.patch_size, num_classes=NUM_CLASSES,
        hidden_size=shape.dim, mlp_dim=4 * shape.dim, num_layers=shape.depth,
        num_heads=shape.heads, in_channels=3, spatial_dims=2,
    )  # fmt: skip
    return Contender("monai", module, _groups(shape, images, tokens), _plain)


def build_siglip2(shape: Shape, images: Images) -> Contender:
    stub_torchvision()
    from transformers import Siglip2VisionConfig
    from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionModel

    config = Siglip2VisionConfig(
        hidden_size=shape.dim, intermediate_size=4 * shape.dim, num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads, patch_size=shape.patch_size, num_patches=256,
        attn_implementation="sdpa",
    )  # fmt: skip
    patches, valid, _ = _padded(shape, images)
    grids = [[side // shape.patch_size for side in image.shape[:2]] for image in images]
    inputs = {
        "pixel_values": patches,
        "pixel_attention_mask": valid.int(),
        "spatial_shapes": torch.tensor(grids),
    }
    module = nn.ModuleList([Siglip2VisionModel(config), nn.Linear(shape.dim, NUM_CLASSES)])
    return Contender("siglip2", module, inputs, lambda m, x: m[1](m[0](**x).pooler_output))


def build_square(shape: Shape, images: Images) -> Contender:
    stub_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    side = max(1, round(float(np.mean(lengths(shape, images))) ** 0.5))
    module = VisionTransformer(
        img_size=side * shape.patch_size, patch_size=shape.patch_size, embed_dim=shape.dim,
        depth=shape.depth, num_heads=shape.heads, qkv_bias=False, qk_norm=True,
        class_token=False, global_pool="map", num_classes=NUM_CLASSES,
    )  # fmt: skip
    pixels = side * shape.patch_size
    return Contender("square", module, torch.randn(len(images), 3, pixels, pixels), _plain)


BUILDERS: dict[str, Callable[[Shape, Images], Contender]] = {
    "patchpack": build_patchpack,
    "patchpack compiled": build_compiled,
    "timm": build_timm,
    "timm compiled": build_timm_compiled,
    "vit-pytorch": build_vit_pytorch,
    "vit-pytorch nested": build_vit_pytorch_nested,
    "monai": build_monai,
    "siglip2": build_siglip2,
    "square": build_square,
}
TABLE = 256  # maximum grid side of learned position tables


def stub_torchvision() -> None:
    """Define operators so that `import torchvision` works without its compiled library."""
    global _stubs
    if _stubs is None and not torch.cuda.is_available():
        _stubs = torch.library.Library("torchvision", "DEF")
        _stubs.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _stubs.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_stubs: torch.library.Library | None = None


def _plain(module: nn.Module, inputs: Any) -> Tensor:
    return module(inputs)


def _lucidrains(shape: Shape) -> dict[str, int]:
    return {
        "image_size": TABLE * shape.patch_size, "patch_size": shape.patch_size,
        "num_classes": NUM_CLASSES, "dim": shape.dim, "depth": shape.depth,
        "heads": shape.heads, "dim_head": shape.dim // shape.heads, "mlp_dim": 4 * shape.dim,
    }  # fmt: skip


def _chw(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).float() / 127.5 - 1


def _groups(shape: Shape, images: Images, tokens: int) -> list[list[Tensor]]:
    """Group images in order, up to `tokens` per group; a larger image is its own group."""
    groups: list[list[Tensor]] = []
    capacity = 0
    for image, length in zip(images, lengths(shape, images), strict=True):
        if length > capacity:
            groups.append([])
            capacity = max(tokens, length)
        groups[-1].append(_chw(image))
        capacity -= length
    return groups


def _padded(shape: Shape, images: Images) -> tuple[Tensor, Tensor, Tensor]:
    """Return patches, validity mask and (y, x) coordinates, padded to the longest image."""
    packs = [pp.pack([image], patch_size=shape.patch_size) for image in images]
    longest = max(pack.num_tokens for pack in packs)
    patches = torch.zeros(len(packs), longest, packs[0].patches.shape[1])
    coords = torch.zeros(len(packs), longest, 2, dtype=torch.int64)
    valid = torch.zeros(len(packs), longest, dtype=torch.bool)
    for i, pack in enumerate(packs):
        patches[i, : pack.num_tokens] = pack.patches.float() / 127.5 - 1
        coords[i, : pack.num_tokens] = pack.coords
        valid[i, : pack.num_tokens] = True
    return patches, valid, coords
