"""What the findings share: contenders that train once, seeds, spreads, and where results are kept.

A finding is a few contenders, each a RunConfig with a compute budget, trained with every seed and
judged on the test split. Each run lies in a folder of its own: a finished one is read, one that
was stopped is resumed, so the command can be stopped and given again at any time. Runs go side by
side, each on one core, which on few cores does more than one run on all of them.

    docs/findings.json          {finding: {command, data, seeds, hardware, ours, paper, agrees, …}}
    docs/findings.md            the same to read, written anew from it by every finding
    docs/findings/<name>.png    its figure
"""

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from patchpack.checkpoint import list_checkpoints
from patchpack.data.index import build_index
from patchpack.evaluation import data_of, evaluate
from patchpack.loading import load
from patchpack.config import load_recipe
from patchpack.run import CHECKPOINTS, load_config, resume, start
from patchpack.serialization import to_json
from patchpack.config import RunConfig
from patchpack.visualize.figures import COLORS, png

ROOT = Path(__file__).parents[1]
TEST = "test"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the paper says, and what is to be said about how it went here."""

    name: str  # of its file, of its figure, of its part of findings.json
    title: str
    claim: str  # the paper's
    paper: dict[str, Any]  # the paper's numbers
    remarks: str = ""  # what agrees, what does not at this scale, and why


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A model and how it is trained; `config.train.flops` is its budget."""

    name: str
    config: RunConfig
    tokens: tuple[int, ...]  # most tokens of an image that it is judged at


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one contender came to with one seed."""

    name: str
    seed: int
    top1: dict[int, float]  # by tokens
    tflop: float
    seconds: float
    images: int


def recipe(name: str) -> RunConfig:
    return load_recipe(ROOT / "recipes" / f"{name}.py")


def small(config: RunConfig) -> RunConfig:
    """The same with a model of a quarter of the weights: many contenders in an hour."""
    model = replace(config.model, dim=128, depth=4, num_heads=4, mlp_dim=512)
    return replace(config, model=model)


def parse(description: str) -> argparse.Namespace:
    """The options of a finding that has no others."""
    return parser_of(description).parse_args()


def parser_of(description: str) -> argparse.ArgumentParser:
    """The options that every finding takes."""
    parser = argparse.ArgumentParser(
        description=description.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/, val/, test/")
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"), help="runs' folder")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where results are kept")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0, help="of every compute budget")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=cores, help="runs side by side on CPUs")
    return parser


def train_all(
    finding: Finding, contenders: Sequence[Contender], options: argparse.Namespace
) -> list[Outcome]:
    """Every contender with every seed, the cheap ones first."""
    cheap_first = sorted(contenders, key=lambda contender: contender.config.train.flops or 0)
    tasks = [
        (_prepared(contender, seed, finding, options), contender.name, seed, contender.tokens)
        for contender in cheap_first
        for seed in range(options.seeds)
    ]
    jobs = 1 if torch.cuda.is_available() else options.jobs
    outcomes = []
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_one_of, initargs=(jobs,)
    ) as pool:
        for done in as_completed([pool.submit(_outcome, *task) for task in tasks]):
            outcome = done.result()
            outcomes.append(outcome)
            shown = "  ".join(f"{t} tokens {top1:.1%}" for t, top1 in outcome.top1.items())
            print(
                f"[{len(outcomes)}/{len(tasks)}] {outcome.name}, seed {outcome.seed}: {shown}, "
                f"{outcome.tflop:.1f} TFLOP in {outcome.seconds:.0f} s",
                flush=True,
            )
    return outcomes


def _one_of(jobs: int) -> None:
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // jobs))


def _prepared(
    contender: Contender, seed: int, finding: Finding, options: argparse.Namespace
) -> RunConfig:
    config = contender.config
    assert config.train.flops is not None
    train = replace(config.train, seed=seed, flops=config.train.flops * options.scale)
    out = options.out / finding.name / contender.name / f"seed{seed}"
    data = replace(config.data, root=options.data.resolve())
    return replace(config, out=out, data=data, train=train)


def _outcome(config: RunConfig, name: str, seed: int, tokens: tuple[int, ...]) -> Outcome:
    """Train, resume or read a run, and judge it."""
    kept = config.out / "outcome.json"
    if kept.exists():
        found = json.loads(kept.read_text())
        if found["config"] == to_json(config) and found["tokens"] == list(tokens):
            top1 = {int(t): value for t, value in found["outcome"].pop("top1").items()}
            return Outcome(**found["outcome"], top1=top1)
        raise SystemExit(f"{kept} is of another configuration: remove {config.out} or change --out")
    if list_checkpoints(config.out / CHECKPOINTS, "last"):
        if to_json(load_config(config.out)) != to_json(config):
            raise SystemExit(f"{config.out} is a run of another configuration: remove it")
        progress = resume(config.out, live=False)
    else:
        progress = start(config, live=False)
    data = data_of(config.out, split=TEST)
    results = evaluate(load(config.out), data, tokens)
    outcome = Outcome(
        name=name,
        seed=seed,
        top1={cost.max_tokens: result.counts.top1 for cost, result in results},
        tflop=progress.flops / 1e12,
        seconds=progress.seconds,
        images=progress.images,
    )
    record = {"config": to_json(config), "tokens": list(tokens), "outcome": vars(outcome)}
    kept.write_text(json.dumps(record, indent=1))
    return outcome


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and the standard deviation over seeds (0 of a single one)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def percent(values: Sequence[float]) -> str:
    mean, spread = mean_and_spread(values)
    return f"{100 * mean:.1f} ± {100 * spread:.1f}"


Found = dict[str, dict[int, list[float]]]  # top-1 by contender, tokens and seed


def by_tokens(outcomes: Sequence[Outcome], contenders: Sequence[Contender]) -> Found:
    """In the contenders' order."""
    return {
        contender.name: {
            tokens: [o.top1[tokens] for o in outcomes if o.name == contender.name]
            for tokens in contender.tokens
        }
        for contender in contenders
    }


def means(found: Found) -> dict[str, dict[int, float]]:
    return {
        name: {tokens: statistics.fmean(values) for tokens, values in at.items()}
        for name, at in found.items()
    }


def compare(
    finding: Finding,
    contenders: Sequence[Contender],
    options: argparse.Namespace,
    *,
    summarise: Callable[[dict[str, dict[int, float]]], tuple[dict[str, Any], bool]],
    words: str | None = None,
) -> None:
    """Train contenders that share a budget, judge all at the same tokens, and publish.

    words      of the command that does so again; that it was given these data, when None
    summarise  from mean top-1 by contender and tokens to this finding's own numbers, and whether
               they agree with the paper
    """
    found = by_tokens(train_all(finding, contenders, options), contenders)
    mean = means(found)
    ours, agrees = summarise(mean)
    baseline = size_baseline(options.data)
    tokens = contenders[0].tokens
    table = [["top-1, %", *(f"{t} tokens" for t in tokens)]]
    table += [[name, *(percent(at[t]) for t in tokens)] for name, at in found.items()]
    table.append(["height and width alone", *[f"{100 * baseline:.1f}"] * len(tokens)])
    publish(
        finding,
        options,
        ours={**ours, "top1": mean, "size_baseline": baseline},
        agrees=agrees,
        table=table,
        figure=draw_lines(found, baseline),
        words=words,
    )


def draw_lines(found: Found, baseline: float) -> bytes:
    """Accuracy over tokens, a line for each contender."""
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    for number, (name, at) in enumerate(found.items()):
        mean, spread = zip(*(mean_and_spread(values) for values in at.values()), strict=True)
        axes.errorbar(
            list(at), 100 * np.array(mean), 100 * np.array(spread), capsize=2, marker="o", ms=4,
            color=COLORS[number % len(COLORS)], ls=("-", "--", ":")[number // len(COLORS)],
            label=name,
        )  # fmt: skip
    axes.axhline(100 * baseline, color="#888", lw=1, ls="-.", label="height and width alone")
    tokens = list(next(iter(found.values())))
    axes.set_xscale("log", base=2)
    axes.set_xticks(tokens, map(str, tokens))
    axes.set_xlabel("most tokens of an image")
    axes.set_ylabel("test accuracy (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=8, handlelength=3.5,
                  loc="outside right upper")  # fmt: skip
    return png(figure)


def budgeted(config: RunConfig, flops: float, step_flops: float) -> RunConfig:
    """A run that ends with its budget, is judged at its end, and warms up for a tenth of it."""
    train = replace(config.train, flops=flops, eval_every=10**9, save_every=100)
    optim = replace(config.optim, warmup=max(1, round(0.1 * flops / step_flops)))
    return replace(config, train=train, optim=optim)


def size_baseline(data: Path, neighbours: int = 15) -> float:
    """Top-1 of the test images' nearest neighbours in log height and log width alone."""
    index = build_index(data)
    train, test = index.split("train"), index.split(TEST)
    known, asked = (np.log(np.stack([s.heights, s.widths], axis=1)) for s in (train, test))
    distance = ((asked[:, None] - known[None]) ** 2).sum(-1)
    votes = train.labels[np.argsort(distance, axis=1, kind="stable")[:, :neighbours]]
    said = [np.bincount(row, minlength=len(index.classes)).argmax() for row in votes]
    return float((np.array(said) == test.labels).mean())


def publish(
    finding: Finding,
    options: argparse.Namespace,
    *,
    ours: dict[str, Any],
    agrees: bool,
    table: Sequence[Sequence[str]],
    figure: bytes,
    words: str | None = None,
) -> None:
    """Keep a finding's numbers and figure, and write the page of all findings anew."""
    docs: Path = options.docs
    (docs / "findings").mkdir(parents=True, exist_ok=True)
    (docs / "findings" / f"{finding.name}.png").write_bytes(figure)
    path = docs / "findings.json"
    findings = json.loads(path.read_text()) if path.exists() else {}
    command = f"python experiments/{finding.name}.py {words or f'--data {options.data.name}'}"
    if options.scale != 1:
        command += f" --scale {options.scale:g}"
    findings[finding.name] = {
        "title": finding.title,
        "command": command + (f" --seeds {options.seeds}" if options.seeds != 2 else ""),
        "data": options.data.name,
        "seeds": options.seeds,
        "hardware": hardware(),
        "ours": ours,
        "paper": finding.paper,
        "agrees": agrees,
        "claim": finding.claim,
        "remarks": finding.remarks,
        "table": [list(row) for row in table],
    }
    findings = dict(sorted(findings.items()))
    path.write_text(json.dumps(findings, indent=1, ensure_ascii=False) + "\n")
    (docs / "findings.md").write_text(_page(findings))
    print("\n".join(_markdown(table)))


def hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{len(os.sched_getaffinity(0))} CPU cores, {platform.machine()}"


def _page(findings: dict[str, dict[str, Any]]) -> str:
    lines = [
        "# Findings",
        "",
        "What the paper (arXiv 2307.06304) found, run again with this library at a scale that fits",
        "its hardware: small models, short runs, little data. Every number comes from the command",
        "beside it; `findings.json` holds them all. ± is the standard deviation over seeds.",
    ]
    for name, found in findings.items():
        lines += [
            "",
            f"## {found['title']}",
            "",
            f"The paper: {found['claim']}",
            "",
            f"    {found['command']}",
            "",
            f"{found['data']}, {found['seeds']} seeds, {found['hardware']}. "
            f"**{'Agrees' if found['agrees'] else 'Does not agree'}.** {found['remarks']}".strip(),
            "",
            *_markdown(found["table"]),
            "",
            f"![{found['title']}](findings/{name}.png)",
        ]
    return "\n".join(lines) + "\n"


def _markdown(table: Sequence[Sequence[str]]) -> list[str]:
    head, *rows = table
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
