"""Data loading from image files to batches: images/s and CPU ms per image of several loaders.

    python benchmarks/loader.py [--data DIR] [--max-tokens 256] [--patch-size 16] [--rounds 3]

DIR is a folder of images (<class>/*.jpg); without it, 512 generated photographs of log-normal size
are written to a temporary folder. Every loader decodes each image, downsizes it to at most
`max-tokens` patches with its aspect ratio, flips it with probability 0.5, and cuts it into uint8
patches:

    patchpack      packs of 8,192 tokens; in the foreground, and on 2 threads
    DataLoader     Pillow, bicubic, batches of 32 padded to the longest; 0 and 2 workers
    timm           NaFlex loader: one sequence length, so small images are enlarged; 0 and 2 workers

Rounds are interleaved. Each is a pass over all images with new workers; the median is reported. CPU
time is user and system time of this process and its workers, including startup.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from contenders import stub_torchvision
from PIL import Image, ImageFilter
from sizes import draw, log_normal_sizes
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from patchpack.__main__ import keep_freed_memory
from patchpack.data.config import PackingConfig
from patchpack.data.index import Index, build_index
from patchpack.data.loader import LoaderConfig, load_epoch
from patchpack.data.packing.plan import ItemSizes, make_plan
from patchpack.data.packing.resolution import Native
from patchpack.data.spec import Preprocessing
from patchpack.data.transforms.augment import Augment

Pass = Callable[[], Iterator[int]]  # yields the image count of each batch
BATCH = 32


def write_photographs(root: Path, count: int = 512) -> None:
    """Write blurred noise, which compresses about as well as photographs."""
    rng = np.random.default_rng(0)
    (sizes,) = log_normal_sizes().values()
    (root / "all").mkdir(parents=True)
    for number, (height, width) in enumerate(draw(sizes, count)):
        noise = rng.integers(0, 256, (int(height), int(width), 3), np.uint8)
        image = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2))
        image.save(root / "all" / f"{number:04d}.jpg", quality=92)


def patchpack(index: Index, patch_size: int, max_tokens: int, config: LoaderConfig) -> Pass:
    """Return a pass of this library's loader."""

    def run() -> Iterator[int]:
        packing = PackingConfig(
            patch_size=patch_size, max_tokens=8192, resolution=Native(max_tokens=max_tokens)
        )
        plan = make_plan(ItemSizes(index.heights, index.widths), packing, seed=0, epoch=0)
        preprocessing = Preprocessing(patch_size=patch_size, augment=Augment(flip="horizontal"))
        for pack in load_epoch(index, plan, preprocessing, config):
            yield pack.batch.num_images

    return run


class Files(Dataset):
    """A plain PyTorch dataset: Pillow decoding and resizing, then patches."""

    def __init__(self, index: Index, patch_size: int, max_tokens: int) -> None:
        rule = Native(max_tokens=max_tokens)
        self.paths = [index.path(i) for i in range(len(index))]
        self.patch_size = patch_size
        self.grids = rule.grids(
            index.heights, index.widths, patch_size=patch_size, max_tokens=max_tokens,
            rng=np.random.default_rng(0),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> torch.Tensor:
        p, (h, w) = self.patch_size, map(int, self.grids[number])
        image = Image.open(self.paths[number]).convert("RGB")
        image = image.resize((w * p, h * p), Image.Resampling.BICUBIC)
        if torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image))
        return pixels.view(h, p, w, p, 3).transpose(1, 2).reshape(h * w, p * p * 3)


def pad(images: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Collate images, padded to the longest; returns patches and lengths."""
    lengths = torch.tensor([len(image) for image in images])
    return pad_sequence(images, batch_first=True), lengths


def padding(index: Index, patch_size: int, max_tokens: int, workers: int) -> Pass:
    """Return a pass of a padding DataLoader."""
    files = Files(index, patch_size, max_tokens)

    def run() -> Iterator[int]:
        loader = DataLoader(
            files, batch_size=BATCH, shuffle=True, num_workers=workers, collate_fn=pad
        )
        for _, lengths in loader:
            yield len(lengths)

    return run


class PillowImages(Dataset):
    """The dataset that timm's loader expects: Pillow images; timm sets `transform`."""

    transform = None

    def __init__(self, index: Index) -> None:
        self.paths = [index.path(i) for i in range(len(index))]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[Image.Image, int]:
        return Image.open(self.paths[number]).convert("RGB"), 0


def naflex(index: Index, patch_size: int, max_tokens: int, workers: int) -> Pass:
    """Return a pass of timm's NaFlex loader."""
    stub_torchvision()
    from timm.data.naflex_loader import create_naflex_loader

    def run() -> Iterator[int]:
        loader = create_naflex_loader(
            PillowImages(index), patch_size=patch_size, train_seq_lens=(max_tokens,),
            max_seq_len=max_tokens, batch_size=BATCH, is_training=True, no_aug=True,
            interpolation="bicubic", num_workers=workers, use_prefetcher=False, pin_memory=False,
            persistent_workers=False, device="cpu",
        )  # fmt: skip
        for _, labels in loader:
            yield len(labels)

    return run


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def measure(passes: dict[str, Pass], rounds: int) -> dict[str, tuple[float, float]]:
    """Return images/s and CPU ms per image, medians over rounds."""
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in passes}
    for round_number in range(rounds + 1):
        for name, run in passes.items():
            start, used = time.perf_counter(), cpu_seconds()
            images = sum(run())
            seconds, used = time.perf_counter() - start, cpu_seconds() - used
            if round_number:  # the first round warms the disk cache
                results[name].append((images / seconds, 1e3 * used / images))
    return {
        name: (statistics.median(r[0] for r in rows), statistics.median(r[1] for r in rows))
        for name, rows in results.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of images; default: generated")
    parser.add_argument("--patch-size", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = options.data or Path(folder)
        if options.data is None:
            write_photographs(root)
        index = build_index(root, cache_dir=Path(folder) / "cache")
        size = (index, options.patch_size, options.max_tokens)
        passes = {
            "patchpack, foreground": patchpack(*size, LoaderConfig(workers=0)),
            "patchpack, 2 threads": patchpack(*size, LoaderConfig(workers=2)),
            "DataLoader, foreground": padding(*size, 0),
            "DataLoader, 2 workers": padding(*size, 2),
            "timm NaFlex, foreground": naflex(*size, 0),
            "timm NaFlex, 2 workers": naflex(*size, 2),
        }
        rows = measure(passes, options.rounds)
    lines = ["| loader | images/s | CPU ms/image |", "|---|---|---|"]
    lines += [f"| {name} | {rate:,.0f} | {cpu:.2f} |" for name, (rate, cpu) in rows.items()]
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    keep_freed_memory()
    main()
