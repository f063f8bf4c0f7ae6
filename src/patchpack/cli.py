"""The command `patchpack`: one verb a function.

    patchpack inspect DIR                    what packing makes of a folder of images
    patchpack train DIR|RECIPE.py [--…]      train; --resume RUN continues
    patchpack eval RUN                       accuracy at token budgets
    patchpack predict RUN IMAGE…             labels with probabilities
    patchpack embed RUN IMAGE… -o FILE.npz   vectors
    patchpack demo                           everything on generated images, and a report

Every verb takes --help, and --json for output that programs read. What a user can get wrong ends
in one line on stderr and exit status 2.
"""

import dataclasses
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from patchpack.data.images import BadImage
from patchpack.data.index import Index, build_index
from patchpack.data.layouts import BadDataset
from patchpack.data.resolution import Native, Resolution
from patchpack.evaluate.classification import table
from patchpack.evaluate.survey import QUANTILES, Survey, plan_all, survey
from patchpack.judge import evaluate_run
from patchpack.model.navit import forward_flops
from patchpack.model.presets import model_config
from patchpack.recipe import load_recipe
from patchpack.run import resume, start
from patchpack.serve.files import image_files, read_groups
from patchpack.serve.predictor import Prediction, load
from patchpack.train.config import DataConfig, RunConfig
from patchpack.train.loop import Stopped, TrainingError
from patchpack.train.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Sizes, aspects, tokens, fill of the packing plan, and compute saved, from headers alone."""

    source: Positional[Path]  # a folder of images, or a .csv or .jsonl manifest
    patch_size: int = 16  # pixels
    max_tokens: int = 8192  # of a pack
    resolution: Resolution = dataclasses.field(default_factory=Native)
    picture: Path | None = None  # draws the first pack into this PNG (needs patchpack[report])
    max_bad_fraction: float = 0.01  # share of unreadable images that is an error
    json: bool = False  # print JSON


def run_inspect(options: Inspect) -> None:
    if options.patch_size < 1 or options.max_tokens < 1:
        raise ValueError("patch_size and max_tokens must be at least 1")
    index = build_index(options.source, max_bad_fraction=options.max_bad_fraction)
    config = model_config("navit_s16", patch_size=options.patch_size)
    found = survey(
        index,
        patch_size=options.patch_size,
        max_tokens=options.max_tokens,
        resolution=options.resolution,
        flops=lambda lengths: forward_flops(config, lengths),
    )
    if options.picture:
        _draw_first_pack(index, options, options.picture)
    if options.json:
        print(json.dumps(found.json()))
    else:
        _print_survey(found, index.bad)


def _draw_first_pack(index: Index, options: Inspect, path: Path) -> None:
    from PIL import Image

    from patchpack.data.loader import LoaderConfig, Treatment, load_epoch
    from patchpack.evaluate.figures import draw_pack

    # A pack of a few hundred tokens can be looked at; one of thousands cannot.
    small = min(options.max_tokens, 4096)
    plan = plan_all(index, options.patch_size, small, options.resolution, False)
    treatment = Treatment(patch_size=options.patch_size)
    first = next(load_epoch(index, plan, treatment, LoaderConfig(workers=0)))
    Image.fromarray(draw_pack(first.batch, options.patch_size)).save(path)


def _print_survey(found: Survey, bad: Sequence[tuple[str, str]]) -> None:
    console = Console(markup=False, highlight=False)
    splits = ", ".join(f"{name} {count:,}" for name, count in found.splits.items())
    console.print(f"{found.images:,} images in {found.classes} classes ({splits})")
    for key, reason in bad:
        console.print(f"unreadable: {key}: {reason}", soft_wrap=True)
    rows = Table(box=None, padding=(0, 2), header_style="dim")
    for title in ("", *(f"{q:.0%}" for q in QUANTILES)):
        rows.add_column(title, justify="right")
    rows.add_row("height, px", *(f"{v:,.0f}" for v in found.heights))
    rows.add_row("width, px", *(f"{v:,.0f}" for v in found.widths))
    rows.add_row("width / height", *(f"{v:.2f}" for v in found.aspects))
    rows.add_row(f"tokens of {found.patch_size} px", *(f"{v:,.0f}" for v in found.tokens))
    console.print(rows)
    console.print(
        f"{found.packs:,} packs of {found.max_tokens:,} tokens, "
        f"{found.images_per_pack:.1f} images each: {found.fill:.2%} full, "
        f"{found.fill_to_fit:.2%} where the last image of a pack may be trimmed"
    )
    padded = 1 - found.gflops / found.gflops_padded
    square = 1 - found.gflops / found.gflops_square
    console.print(
        f"compute of a ViT-S, forward: {found.gflops:,.0f} GFLOP packed; "
        f"{found.gflops_padded:,.0f} padded to the longest of 32 ({padded:.0%} saved); "
        f"{found.gflops_square:,.0f} as squares that keep the detail of 95 % ({square:.0%} saved)"
    )


def run_train(argv: Sequence[str]) -> None:
    """`train` reads its positional argument first: it decides every option's default."""
    argv = list(argv)
    as_json = "--json" in argv
    argv = [word for word in argv if word != "--json"]
    folder = _take_option(argv, "--resume")
    if folder is not None:
        if argv:
            raise ValueError(f"--resume takes no further options, not {' '.join(argv)}")
        _report_training(resume(Path(folder)), Path(folder), as_json)
        return
    preset = _take_option(argv, "--preset")
    default = RunConfig()
    if argv and not argv[0].startswith("-") and ":" not in argv[0]:
        source = Path(argv.pop(0))
        if source.suffix == ".py":
            default = load_recipe(source)
        else:
            default = dataclasses.replace(default, data=DataConfig(root=source))
    if preset is not None:
        default = dataclasses.replace(default, model=model_config(preset))
    config = tyro.cli(
        RunConfig,
        default=default,
        args=argv,
        prog="patchpack train [DIR | RECIPE.py] [--resume RUN] [--preset NAME] [--json]",
        config=(tyro.conf.CascadeSubcommandArgs,),
    )
    _report_training(start(config), config.out, as_json)


def _take_option(argv: list[str], name: str) -> str | None:
    """Remove `name VALUE` from the words, and give the value."""
    if name not in argv:
        return None
    place = argv.index(name)
    if place + 1 >= len(argv):
        raise ValueError(f"{name} needs a value")
    value = argv[place + 1]
    del argv[place : place + 2]
    return value


def _report_training(progress: Progress, out: Path, as_json: bool) -> None:
    if os.environ.get("RANK", "0") != "0":  # of several processes, the first one speaks
        return
    if as_json:
        print(json.dumps({"out": str(out), **dataclasses.asdict(progress)}))
        return
    print(
        f"{progress.step} steps, {progress.images:,} images, {progress.flops / 1e12:,.1f} TFLOP "
        f"in {progress.seconds:.0f} s; best top1 {progress.best:.4f} at step {progress.best_step}\n"
        f"patchpack eval {out}"
    )


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Top-1, top-5 and per-class accuracy of a run's best weights, at token budgets."""

    run: Positional[Path]  # the run's folder
    data: Path | None = None  # a folder or manifest; the run's own data when absent
    split: str = "test"
    budgets: tuple[int, ...] = ()  # most tokens of an image; the run's own when empty
    out: Path | None = None  # where eval-SPLIT.json goes; the run's folder when absent
    max_bad_fraction: float | None = None  # share of unreadable images allowed; the run's own
    json: bool = False  # print JSON


def run_eval(options: Eval) -> None:
    predictor = load(options.run)
    results = evaluate_run(
        predictor,
        options.run,
        data=options.data,
        split=options.split,
        budgets=options.budgets or (predictor.card.eval_tokens,),
        max_bad_fraction=options.max_bad_fraction,
    )
    classes = predictor.card.classes
    record = {
        "run": str(options.run),
        "split": options.split,
        "budgets": [
            {"max_tokens": r.max_tokens, "gflops_per_image": r.gflops_per_image,
             "images_per_s": r.images_per_s, "unreadable": list(r.unreadable),
             **table(r.counts, classes)}
            for r in results
        ],
    }  # fmt: skip
    out = options.out or options.run
    out.mkdir(parents=True, exist_ok=True)
    (out / f"eval-{options.split}.json").write_text(json.dumps(record, indent=1) + "\n")
    drawn = _draw_confusion(results[-1].counts, classes, out / f"confusion-{options.split}.png")
    if options.json:
        print(json.dumps(record))
        return
    console = Console(markup=False, highlight=False)
    rows = Table(box=None, padding=(0, 2), header_style="dim")
    for title in ("tokens", "top-1", "top-5", "NLL", "GFLOP/image", "images/s", "images"):
        rows.add_column(title, justify="right")
    for r in results:
        rows.add_row(
            f"{r.max_tokens}", f"{r.counts.top1:.4f}", f"{r.counts.top5:.4f}",
            f"{r.counts.mean_nll:.4f}", f"{r.gflops_per_image:.3f}", f"{r.images_per_s:,.0f}",
            f"{r.counts.images}",
        )  # fmt: skip
    console.print(rows)
    for error in results[-1].unreadable:
        console.print(f"left out: {error}", soft_wrap=True)
    _print_per_class(console, results[-1].counts.per_class.tolist(), classes)
    console.print(f"{out / f'eval-{options.split}.json'}" + (f", {drawn}" if drawn else ""))


def _print_per_class(console: Console, shares: list[float], classes: Sequence[str]) -> None:
    known = [(share, name) for share, name in zip(shares, classes, strict=True) if share == share]
    ordered = sorted(known)
    if len(ordered) > 10:
        ordered = ordered[:5] + ordered[-5:]
        console.print("the five worst and the five best classes:")
    for share, name in ordered:
        console.print(f"  {share:6.1%}  {name}")


def _draw_confusion(counts: Any, classes: Sequence[str], path: Path) -> Path | None:
    try:
        from patchpack.evaluate.figures import draw_confusion
    except ImportError:  # the report extra is not installed
        return None
    path.write_bytes(draw_confusion(counts.confusion.numpy(), classes))
    return path


@dataclass(frozen=True, kw_only=True)
class Predict:
    """The likeliest labels of images, with probabilities."""

    run: Positional[Path]  # the run's folder
    images: Positional[tuple[Path, ...]]  # files, or folders of them
    max_tokens: int | None = None  # most tokens of an image: the cost dial
    top: int = 5  # labels of each image
    json: bool = False  # print JSON, one object a line


def run_predict(options: Predict) -> int:
    predictor = load(options.run)
    bad: list[BadImage] = []
    for paths, images in read_groups(image_files(options.images), bad):
        answers = predictor.predict(images, max_tokens=options.max_tokens, top=options.top)
        for path, found in zip(paths, answers, strict=True):
            _print_prediction(path, found, options.json)
    return _complain(bad)


def _print_prediction(path: Path, found: Prediction, as_json: bool) -> None:
    pairs = list(zip(found.labels, found.probabilities, strict=True))
    if as_json:
        labels = [{"label": label, "probability": round(p, 6)} for label, p in pairs]
        print(json.dumps({"image": str(path), "labels": labels}))
    else:
        print(f"{path}: " + ", ".join(f"{label} {p:.1%}" for label, p in pairs))


@dataclass(frozen=True, kw_only=True)
class Embed:
    """The pooled vector of each image, as arrays `keys` and `vectors` of an .npz file."""

    run: Positional[Path]  # the run's folder
    images: Positional[tuple[Path, ...]]  # files, or folders of them
    output: Annotated[Path, arg(aliases=["-o"])]  # the .npz to write
    max_tokens: int | None = None  # most tokens of an image: the cost dial
    json: bool = False  # print JSON


def run_embed(options: Embed) -> int:
    if options.output.is_dir():
        raise ValueError(f"{options.output} is a folder: name the .npz file to write")
    predictor = load(options.run)
    bad: list[BadImage] = []
    keys: list[str] = []
    groups: list[np.ndarray] = []
    for paths, images in read_groups(image_files(options.images), bad):
        keys += map(str, paths)
        groups.append(predictor.embed(images, max_tokens=options.max_tokens))
    if not keys:
        _complain(bad)
        raise ValueError("none of the images can be read, so there is nothing to embed")
    vectors = np.concatenate(groups)
    output = options.output.with_suffix(".npz")
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".tmp-{output.name}")
    with temporary.open("wb") as file:
        np.savez(file, keys=np.array(keys), vectors=vectors)
    temporary.replace(output)
    if options.json:
        print(json.dumps({"output": str(output), "shape": list(vectors.shape)}))
    else:
        print(f"{output}: {vectors.shape[0]} vectors of {vectors.shape[1]}")
    return _complain(bad)


def _complain(bad: Sequence[BadImage]) -> int:
    """Name what could not be read; gives the exit status."""
    for error in bad:
        print(f"patchpack: {error}", file=sys.stderr)
    return 1 if bad else 0


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Train a small NaViT and a square ViT on generated images, compare them, write a report."""

    out: Path = Path("demo")  # images, runs and report.html go here
    steps: int = 400  # of training the NaViT; the square ViT gets the same compute
    json: bool = False  # print JSON


def run_demo(options: Demo) -> None:
    try:
        from patchpack.demo.show import show
    except ImportError as error:
        raise ImportError("the demo draws pictures: pip install 'patchpack[report]'") from error
    summary = show(options.out, options.steps)
    print(json.dumps(summary) if options.json else f"look at {summary['report']}")


VERBS: dict[str, tuple[type, Callable[[Any], int | None]]] = {
    "inspect": (Inspect, run_inspect),
    "eval": (Eval, run_eval),
    "predict": (Predict, run_predict),
    "embed": (Embed, run_embed),
    "demo": (Demo, run_demo),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one verb and exit with its status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names may be any bytes at all
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    verb = words[0] if words else "--help"
    if verb in ("-h", "--help"):
        print(__doc__)
        sys.exit(0)
    if verb != "train" and verb not in VERBS:
        from patchpack.serial import nearest

        _fail(f"there is no command {verb!r}{nearest(verb, ['train', *VERBS])}")
    try:
        if verb == "train":
            run_train(words[1:])
            return
        options, function = VERBS[verb]
        prog = f"patchpack {verb}"
        parsed = tyro.cli(
            options, args=words[1:], prog=prog, config=(tyro.conf.CascadeSubcommandArgs,)
        )
        sys.exit(function(parsed) or 0)
    except Stopped as stop:
        print(f"patchpack: {stop}; continue with: patchpack train --resume {stop.folder}",
              file=sys.stderr)  # fmt: skip
        sys.exit(128 + stop.signal_number)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except (ValueError, TrainingError, BadDataset, OSError, ImportError) as error:
        _fail(str(error))


def _fail(message: str) -> None:
    print(f"patchpack: {message}", file=sys.stderr)
    sys.exit(2)
