"""Shared by test files: random packs, random weights, image folders."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from patchpack.batch import PackedBatch, Patches, collate

# Tests against other libraries run in an environment of their own: make test-parity.
collect_ignore = [] if find_spec("transformers") and find_spec("timm") else ["parity"]

GRIDS = ((3, 2), (1, 1), (2, 5), (3, 2), (1, 7), (4, 4))


def make_images(
    grids: Sequence[tuple[int, int]] = GRIDS, patch_dim: int = 12, seed: int = 0
) -> list[Patches]:
    """Images of random float pixels in 0..255; a third of the tokens of every second is dropped."""
    generator = torch.Generator().manual_seed(seed)
    images = []
    for number, (h, w) in enumerate(grids):
        order = torch.randperm(h * w, generator=generator)
        kept = order[: max(1, h * w * 2 // 3) if number % 2 else h * w].sort().values
        coords = torch.stack([kept // w, kept % w], dim=1).int()
        pixels = torch.rand(len(kept), patch_dim, generator=generator) * 255
        images.append(
            Patches(patches=pixels, coords=coords, grid=(h, w), key=f"image {number}",
                    targets={"label": number % 3})
        )  # fmt: skip
    return images


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Set every parameter to random values: initial zeros and ones hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            values = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(values * 0.3 + (parameter.mean() == 1))
    return module


def assert_packed_equals_single(
    function: Callable[[PackedBatch], Tensor],
    parameters: Sequence[nn.Parameter],
    *,
    per: str,
    images: Sequence[Patches] | None = None,
) -> None:
    """Assert that an image has the same output and gradients in a pack of its own and among others.

    Within 1e-5 of the largest value, in float32.

    function  from a pack to rows, one per token or one per image (`per`)
    """
    images = list(images or make_images())
    packed = collate(images, images[0].patches.shape[1])
    for position, image in enumerate(images):
        single = _output_and_gradients(function, collate([image], 0), 0, parameters, per)
        among_others = _output_and_gradients(function, packed, position, parameters, per)
        for a, b in zip(single, among_others, strict=True):
            atol = 1e-5 * max(1.0, float(a.abs().max()))
            torch.testing.assert_close(b, a, atol=atol, rtol=0)


def assert_losses_add_up(module: nn.Module, images: Sequence[Patches]) -> None:
    """Assert that count, loss and gradients of a pack are the sums of those of its images.

    Within 1e-5 of the largest value.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]

    def loss_and_gradients(images: Sequence[Patches]) -> tuple:
        loss = module.loss(collate(images, images[0].patches.shape[1]))
        return loss.count, loss.sum, *torch.autograd.grad(loss.sum, parameters)

    count, *packed = loss_and_gradients(images)
    singles = [loss_and_gradients([image]) for image in images]
    assert count == sum(single[0] for single in singles)
    for whole, *parts in zip(packed, *(single[1:] for single in singles), strict=True):
        atol = 1e-5 * float(whole.detach().abs().max())
        torch.testing.assert_close(whole, sum(parts), atol=atol, rtol=0)


def _output_and_gradients(function, batch, position, parameters, per):
    pixels = batch.patches.clone().requires_grad_()
    batch = PackedBatch(patches=pixels, coords=batch.coords, grids=batch.grids,
                        lengths=batch.lengths, keys=batch.keys, targets=batch.targets)  # fmt: skip
    rows = function(batch)
    start = sum(batch.lengths[:position])
    tokens = slice(start, start + batch.lengths[position])
    output = rows[tokens] if per == "token" else rows[position]
    weights = torch.linspace(-1, 1, output.numel()).reshape(output.shape)
    gradients = torch.autograd.grad(
        (output * weights).sum(), [pixels, *parameters], allow_unused=True, materialize_grads=True
    )
    assert not gradients[0][: tokens.start].any() and not gradients[0][tokens.stop :].any()
    return output.detach(), gradients[0][tokens], *gradients[1:]


def write_folder(root: Path, per_class: dict[str, int], seed: int = 0) -> Path:
    """Write root/<split>/<class>/*.png: stripes whose direction is the class; sizes vary."""
    rng = np.random.default_rng(seed)
    for split, count in per_class.items():
        for label in ("across", "along", "plain"):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                h, w = rng.integers(9, 40, 2)
                y, x = np.mgrid[:h, :w]
                wave = {"across": y // 2 % 2, "along": x // 2 % 2, "plain": y * 0}[label]
                gray = 60 + 120 * wave + rng.integers(0, 30, (h, w))
                image = Image.fromarray(np.repeat(gray[..., None], 3, 2).astype(np.uint8))
                image.save(root / split / label / f"{number:03d}.png")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "images", {"train": 16, "val": 4, "test": 4})
