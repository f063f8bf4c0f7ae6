"""Train a NaViT and a square ViT on the same images with equal compute, and write a report.

The runs differ only in resizing: the NaViT keeps native size and aspect ratio, the ViT resizes each
image to a square with about the same number of tokens. Model, optimizer, training loop and training
FLOPs are the same.
"""

import shutil
import time
from pathlib import Path

from rich.console import Console

from patchpack.config import RunConfig
from patchpack.data.config import DataConfig, PackingConfig
from patchpack.data.index import Index, build_index
from patchpack.data.loader import LoaderConfig, load_epoch
from patchpack.data.packing.resolution import Native, Resolution, SquareResize
from patchpack.data.spec import Preprocessing
from patchpack.data.statistics import plan_all, survey
from patchpack.demo.shapes import CLASSES, write_images
from patchpack.evaluation import data_of, evaluate
from patchpack.loading import load
from patchpack.model.navit import NaViTConfig, forward_flops, training_flops
from patchpack.run import start
from patchpack.tasks.task import Evaluation
from patchpack.train.config import TrainConfig
from patchpack.train.optim import OptimConfig
from patchpack.train.progress import Progress
from patchpack.visualize.figures import draw_confusion, draw_pack
from patchpack.visualize.html import Picture, page, paragraph, pictures, table
from patchpack.visualize.plots import draw_accuracy_over_cost
from patchpack.visualize.style import image_to_png
from patchpack.writing import write_text_atomic

BUDGETS = (16, 36, 64, 144)  # maximum tokens per image
SQUARE = 8  # patches per side: 64 tokens, about the mean at native size
MODEL = NaViTConfig(dim=128, depth=4, num_heads=2, mlp_dim=384, patch_size=8)
PACK = 2048  # tokens per pack
MARKER = ".patchpack-demo"  # file in output folders that the demo may clear
UNFINISHED = ".images"  # folder of partly written images
TITLES = {
    "navit": "NaViT",
    "square": "square ViT",
}


def configure(root: Path, out: Path, resolution: Resolution, steps: int) -> RunConfig:
    """Return the config of one of the two runs."""
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
    """Write the images, train and evaluate both models, write `report.html`; return its numbers.

    steps  training steps of the NaViT; the ViT takes as many as cost the same FLOPs
    """
    console, start_time = Console(stderr=True, highlight=False), time.monotonic()
    _claim(out)
    images = out / "images"
    if not images.is_dir():
        console.print(f"writing generated images to {images}")
        shutil.rmtree(out / UNFINISHED, ignore_errors=True)
        write_images(out / UNFINISHED)
        (out / UNFINISHED).rename(images)
    for name in ("navit", "square"):
        shutil.rmtree(out / name, ignore_errors=True)

    console.print("training a NaViT at native size and aspect ratio")
    navit = start(configure(images, out / "navit", Native(), steps))
    per_step = training_flops(MODEL, [SQUARE**2] * (PACK // SQUARE**2))
    same_compute = max(1, round(navit.flops / per_step))
    console.print(f"training a square ViT at {SQUARE * MODEL.patch_size} px with the same compute")
    square = start(configure(images, out / "square", SquareResize(grid=SQUARE), same_compute))

    console.print("evaluating both at several token budgets")
    results = {
        name: evaluate(load(out / name), data_of(out / name, split="test"), BUDGETS)
        for name in ("navit", "square")
    }
    progress = {"navit": navit, "square": square}
    seconds = time.monotonic() - start_time
    report = out / "report.html"
    write_text_atomic(report, _page(out, images, progress, results, seconds))
    summary = {
        name: {
            "train_tflop": progress[name].flops / 1e12,
            "train_seconds": progress[name].seconds,
            "top1": {str(r.cost.max_tokens): r.result.counts.top1 for r in results[name]},
        }
        for name in progress
    }
    for name, values in summary.items():
        accuracy = ", ".join(f"{top1:.1%} at {b} tokens" for b, top1 in values["top1"].items())
        console.print(f"{name}: {accuracy} ({values['train_tflop']:.1f} TFLOP)", soft_wrap=True)
    return {"report": str(report), "seconds": seconds, **summary}


def _claim(out: Path) -> None:
    """Mark a new or empty folder as the demo's. Raise ValueError if it contains other files."""
    if out.exists() and any(out.iterdir()) and not (out / MARKER).exists():
        raise ValueError(f"{out} contains other files: choose an empty folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()


def _page(
    out: Path,
    images: Path,
    progress: dict[str, Progress],
    results: dict[str, list[Evaluation]],
    seconds: float,
) -> str:
    """Return the report as HTML."""
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
        f"Two models trained with equal compute, {seconds:.0f} s in total. The dataset has "
        f"{len(index):,} generated images (train, val, test) of {len(CLASSES)} classes. The models "
        "differ only in resizing: the NaViT keeps native size and aspect ratio, the square ViT "
        f"resizes images to {SQUARE * MODEL.patch_size} x {SQUARE * MODEL.patch_size} px.",
        [
            ("Training", table(["model", "TFLOP", "images", "tokens", "seconds"], trained)),
            ("Test accuracy at each token budget", _accuracy(results)),
            ("A pack", _pack(index)),
            ("Confusion matrices", _confusions(results)),
            ("Training curves", "".join(pictures(curve) for curve in curves)),
        ],
    )


def _accuracy(results: dict[str, list[Evaluation]]) -> str:
    header = ["model", "maximum tokens", "top-1", "NLL", "MFLOP/image", "images/s"]
    cells = [
        [
            TITLES[name],
            str(r.cost.max_tokens),
            f"{r.result.counts.top1:.1%}",
            f"{r.result.counts.mean_nll:.3f}",
            f"{r.cost.gflops_per_image * 1000:.1f}",
            f"{r.cost.images_per_s:,.0f}",
        ]
        for name, budgets in results.items()
        for r in budgets
    ]
    curves = {
        TITLES[name]: [(r.cost.max_tokens, r.result.counts.top1) for r in budgets]
        for name, budgets in results.items()
    }
    picture = draw_accuracy_over_cost(
        curves, "maximum tokens per image", "One checkpoint per model at all token budgets."
    )
    return table(header, cells) + pictures(picture)


def _pack(index: Index) -> str:
    packing = PackingConfig(patch_size=MODEL.patch_size, max_tokens=PACK, resolution=Native())
    stats = survey(index, packing, flops=lambda lengths: forward_flops(MODEL, lengths))
    plan = plan_all(index, packing)
    preprocessing = Preprocessing(patch_size=MODEL.patch_size)
    first = next(load_epoch(index, plan, preprocessing, LoaderConfig(workers=0))).batch
    text = (
        f"The first pack holds {first.num_images} images in {first.num_tokens:,} of {PACK:,} token "
        f"slots. Over the whole dataset, {stats.fill_trimmed:.2%} of the slots are full, and a "
        f"forward pass takes {1 - stats.gflops / stats.gflops_padded:.0%} less compute than "
        "batches of 32 padded to their longest image."
    )
    caption = (
        "A pack. Attention stays inside each border, which is one image. Gray patches, if any, "
        "were dropped to fill the pack exactly."
    )
    drawn = image_to_png(draw_pack(first, MODEL.patch_size))
    return paragraph(text) + pictures(Picture(drawn, caption))


def _confusions(results: dict[str, list[Evaluation]]) -> str:
    best = {name: max(rs, key=lambda r: r.result.counts.top1) for name, rs in results.items()}
    return pictures(
        *(
            Picture(
                draw_confusion(evaluation.result.counts.confusion.numpy(), CLASSES),
                f"{TITLES[name]}, at most {evaluation.cost.max_tokens} tokens per image",
            )
            for name, evaluation in best.items()
        )
    )
