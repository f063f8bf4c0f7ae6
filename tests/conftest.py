"""What several test files share: random packs, random weights, folders of images."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from patchpack.batch import PackedBatch, Patches, collate

GRIDS = ((3, 2), (1, 1), (2, 5), (3, 2), (1, 7), (4, 4))


def make_images(
    grids: Sequence[tuple[int, int]] = GRIDS, patch_dim: int = 12, seed: int = 0
) -> list[Patches]:
    """Images of random float pixels in 0..255, every second one with a third of its tokens gone."""
    generator = torch.Generator().manual_seed(seed)
    images = []
    for number, (h, w) in enumerate(grids):
        places = torch.randperm(h * w, generator=generator)
        kept = places[: max(1, h * w * 2 // 3) if number % 2 else h * w].sort().values
        coords = torch.stack([kept // w, kept % w], dim=1).int()
        pixels = torch.rand(len(kept), patch_dim, generator=generator) * 255
        images.append(
            Patches(patches=pixels, coords=coords, grid=(h, w), key=f"image {number}",
                    targets={"label": number % 3})
        )  # fmt: skip
    return images


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter random values: zeros and ones at the start hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            values = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(values * 0.3 + (parameter.mean() == 1))
    return module


def assert_packed_equals_alone(
    function: Callable[[PackedBatch], Tensor],
    parameters: Sequence[nn.Parameter],
    *,
    per: str,
    images: Sequence[Patches] | None = None,
) -> None:
    """An image's output, and every gradient of it, is the same alone and in any company.

    Within 1e-5 of the largest value, in float32.

    function  from a pack to rows, one per token or one per image (`per`)
    """
    images = list(images or make_images())
    packed = collate(images, images[0].patches.shape[1])
    for position, image in enumerate(images):
        alone = _output_and_gradients(function, collate([image], 0), 0, parameters, per)
        company = _output_and_gradients(function, packed, position, parameters, per)
        for a, b in zip(alone, company, strict=True):
            atol = 1e-5 * max(1.0, float(a.abs().max()))
            torch.testing.assert_close(b, a, atol=atol, rtol=0)


def assert_losses_add_up(module: nn.Module, images: Sequence[Patches]) -> None:
    """Count, loss and every gradient of a pack are the sums of those of its images alone, to 1e-5
    of the largest value."""
    require_labels = [p for p in module.parameters() if p.requires_grad]

    def found(some: Sequence[Patches]) -> tuple:
        loss = module.loss(collate(some, images[0].patches.shape[1]))
        return loss.count, loss.sum, *torch.autograd.grad(loss.sum, require_labels)

    count, *together = found(images)
    alone = [found([image]) for image in images]
    assert count == sum(one[0] for one in alone)
    for whole, *parts in zip(together, *(one[1:] for one in alone), strict=True):
        atol = 1e-5 * float(whole.detach().abs().max())
        torch.testing.assert_close(whole, sum(parts), atol=atol, rtol=0)


def _output_and_gradients(function, batch, position, parameters, per):
    pixels = batch.patches.clone().requires_grad_()
    batch = PackedBatch(patches=pixels, coords=batch.coords, grids=batch.grids,
                        lengths=batch.lengths, keys=batch.keys, targets=batch.targets)  # fmt: skip
    rows = function(batch)
    start = sum(batch.lengths[:position])
    tokens = slice(start, start + batch.lengths[position])
    mine = rows[tokens] if per == "token" else rows[position]
    weights = torch.linspace(-1, 1, mine.numel()).reshape(mine.shape)
    gradients = torch.autograd.grad(
        (mine * weights).sum(), [pixels, *parameters], allow_unused=True, materialize_grads=True
    )
    assert not gradients[0][: tokens.start].any() and not gradients[0][tokens.stop :].any()
    return mine.detach(), gradients[0][tokens], *gradients[1:]


def write_folder(root: Path, per_class: dict[str, int], seed: int = 0) -> Path:
    """root/<split>/<class>/*.png: stripes, their direction tells the class; sizes vary."""
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
