"""Train a NaViT and a square ViT on the same images with the same compute, and report on both.

The two differ in one thing: the NaViT sees every image at its own size and aspect, the ViT sees it
as a square of about as many tokens. Model, optimizer, loop and number of operations are the same.
"""

import shutil
import time
from pathlib import Path

from rich.console import Console

from patchpack.checkpoint import write_text_atomic
from patchpack.data.config import DataConfig, PackingConfig
from patchpack.data.index import Index, build_index
from patchpack.data.loader import LoaderConfig, load_epoch
from patchpack.data.packing.resolution import Native, Resolution, SquareResize
from patchpack.data.spec import Preprocessing
from patchpack.data.statistics import plan_all, survey
from patchpack.demo.shapes import CLASSES, write_images
from patchpack.evaluation import BudgetResult, classify_at, data_of
from patchpack.loading import load_classifier
from patchpack.model.navit import NaViTConfig, forward_flops, training_flops
from patchpack.run import start
from patchpack.train.config import RunConfig, TrainConfig
from patchpack.train.optim import OptimConfig
from patchpack.train.progress import Progress
from patchpack.visualize import figures
from patchpack.visualize.html import Picture, page, paragraph, pictures, rows

BUDGETS = (16, 36, 64, 144)  # most tokens of an image
SQUARE = 8  # patches on a side: 64 tokens, about the mean of the images as they are
MODEL = NaViTConfig(dim=128, depth=4, num_heads=2, mlp_dim=384, patch_size=8)
PACK = 2048  # tokens
MARK = ".patchpack-demo"  # in a folder that the demo may clear
UNFINISHED = ".images"
TITLES = {
    "navit": "NaViT",
    "square": "square ViT",
}


def configure(root: Path, out: Path, resolution: Resolution, steps: int) -> RunConfig:
    """The run of one of the two models."""
    return RunConfig(
        out=out,
        data=DataConfig(root=root, max_tokens=PACK, resolution=resolution),
        model=MODEL,
        optim=OptimConfig(lr=2e-3, schedule="cosine", warmup=50, weight_decay=0.02),
        train=TrainConfig(
            steps=steps, eval_every=max(1, steps // 5), save_every=steps, log_every=20
        ),
    )


def show(out: Path, steps: int) -> dict:
    """Make the images, train, evaluate, write `report.html`; gives the figures it shows."""
    console, began = Console(stderr=True, highlight=False), time.monotonic()
    _claim(out)
    images = out / "images"
    if not images.is_dir():
        console.print(f"drawing images into {images}")
        shutil.rmtree(out / UNFINISHED, ignore_errors=True)
        write_images(out / UNFINISHED)
        (out / UNFINISHED).rename(images)
    for name in ("navit", "square"):
        shutil.rmtree(out / name, ignore_errors=True)

    console.print("training a NaViT: images at their own size and aspect")
    navit = start(configure(images, out / "navit", Native(), steps))
    per_step = training_flops(MODEL, [SQUARE**2] * (PACK // SQUARE**2))
    same_compute = max(1, round(navit.flops / per_step))
    console.print(
        f"training a square ViT: {SQUARE * MODEL.patch_size} px squares, the same compute"
    )
    square = start(configure(images, out / "square", SquareResize(grid=SQUARE), same_compute))

    console.print("evaluating both at several token budgets")
    results = {
        name: classify_at(load_classifier(out / name), data_of(out / name, split="test"), BUDGETS)
        for name in ("navit", "square")
    }
    progress = {"navit": navit, "square": square}
    seconds = time.monotonic() - began
    report = out / "report.html"
    write_text_atomic(report, _page(out, images, progress, results, seconds))
    summary = {
        name: {
            "train_tflop": progress[name].flops / 1e12,
            "train_seconds": progress[name].seconds,
            "top1": {str(r.max_tokens): r.counts.top1 for r in results[name]},
        }
        for name in progress
    }
    for name, values in summary.items():
        accuracy = ", ".join(f"{top1:.1%} at {b} tokens" for b, top1 in values["top1"].items())
        console.print(f"{name}: {accuracy} ({values['train_tflop']:.1f} TFLOP)", soft_wrap=True)
    return {"report": str(report), "seconds": seconds, **summary}


def _claim(out: Path) -> None:
    """Mark a new or empty folder as the demo's; raises ValueError where other files lie."""
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        raise ValueError(f"{out} holds other files: give the demo a folder of its own with --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()


def _page(
    out: Path,
    images: Path,
    progress: dict[str, Progress],
    results: dict[str, list[BudgetResult]],
    seconds: float,
) -> str:
    """The report as HTML."""
    index = build_index(images)
    trained = [
        [
            TITLES[name],
            f"{p.flops / 1e12:.2f}",
            f"{p.images:,}",
            f"{p.tokens:,}",
            f"{p.seconds:.0f}",
        ]
        for name, p in progress.items()
    ]
    curves = [Picture((out / name / "curves.png").read_bytes(), TITLES[name]) for name in progress]
    return page(
        "patchpack demo",
        f"Two models on {len(index):,} generated images of {len(CLASSES)} classes, trained with "
        f"the same compute, {seconds:.0f} s in all. They differ only in how they see an image: "
        "the NaViT at its own size and aspect, the square ViT as "
        f"{SQUARE * MODEL.patch_size} px squares.",
        [
            ("Training", rows(["model", "TFLOP", "images", "tokens", "seconds"], trained)),
            ("Accuracy at token budgets, on the test split", _accuracy(results)),
            ("A pack", _pack(index)),
            ("Which classes are confused", _confusions(results)),
            ("Training curves", "".join(pictures(curve) for curve in curves)),
        ],
    )


def _accuracy(results: dict[str, list[BudgetResult]]) -> str:
    header = ["model", "tokens at most", "top-1", "NLL", "MFLOP/image", "images/s"]
    judged = [
        [
            TITLES[name],
            str(r.max_tokens),
            f"{r.counts.top1:.1%}",
            f"{r.counts.mean_nll:.3f}",
            f"{r.gflops_per_image * 1000:.1f}",
            f"{r.images_per_s:,.0f}",
        ]
        for name, budgets in results.items()
        for r in budgets
    ]
    curves = {
        TITLES[name]: [(r.max_tokens, r.counts.top1) for r in budgets]
        for name, budgets in results.items()
    }
    drawn = figures.draw_budgets(curves, "tokens of an image, at most")
    return rows(header, judged) + pictures(
        Picture(drawn, "One checkpoint of each, at every budget.")
    )


def _pack(index: Index) -> str:
    packing = PackingConfig(patch_size=MODEL.patch_size, max_tokens=PACK, resolution=Native())
    found = survey(index, packing, flops=lambda lengths: forward_flops(MODEL, lengths))
    plan = plan_all(index, packing)
    preprocessing = Preprocessing(patch_size=MODEL.patch_size)
    first = next(load_epoch(index, plan, preprocessing, LoaderConfig(workers=0))).batch
    text = (
        f"{first.num_images} images in {first.num_tokens:,} of {PACK:,} token slots; over all "
        f"images {found.fill_trimmed:.2%} of the slots are full. Packed, a forward pass takes "
        f"{1 - found.gflops / found.gflops_padded:.0%} less compute than padded to the longest "
        "of 32."
    )
    caption = (
        "Each border is one image: attention never crosses it. Gray patches, if any, were trimmed "
        "to close the pack."
    )
    drawn = figures.png_of(figures.draw_pack(first, MODEL.patch_size))
    return paragraph(text) + pictures(Picture(drawn, caption))


def _confusions(results: dict[str, list[BudgetResult]]) -> str:
    best = {name: max(rs, key=lambda r: r.counts.top1) for name, rs in results.items()}
    return pictures(
        *(
            Picture(
                figures.draw_confusion(result.counts.confusion.numpy(), CLASSES),
                f"{TITLES[name]}, at most {result.max_tokens} tokens",
            )
            for name, result in best.items()
        )
    )
