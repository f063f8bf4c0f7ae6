"""Shared code of the experiments: training with several seeds, evaluation, and published results.

A finding compares a few contenders. Each is a RunConfig with a compute budget, trained with every
seed and evaluated on the test split. Each run has its own folder: finished runs are read, stopped
runs are resumed, so the command can be interrupted and repeated. Runs are trained in parallel, one
core each, which has a higher throughput than one run on all cores.

    docs/findings.json          {finding: {command, data, seeds, hardware, ours, paper, agrees, …}}
    docs/findings.md            the same as text; every experiment rewrites it
    docs/findings/<name>.png    the figure
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
from patchpack.config import RunConfig, load_recipe
from patchpack.data.index import build_index
from patchpack.evaluation import data_of, evaluate
from patchpack.loading import load
from patchpack.run import CHECKPOINTS, load_config, resume, start
from patchpack.serialization import to_json
from patchpack.visualize.style import COLORS, figure_to_png, style_axes

ROOT = Path(__file__).parents[1]
TEST = "test"
INTRODUCTION = """\
# Findings

Findings of the paper (arXiv 2307.06304), reproduced with this library at a scale that fits
its hardware: small models, short runs, little data. Every number comes from the command
in its section; `findings.json` has them all. ± is the standard deviation over seeds.
"height and width alone" is nearest neighbors in the size of the image, without its pixels."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim of the paper, and remarks on how far it is reproduced."""

    name: str  # name of its script, its figure and its key in findings.json
    title: str
    claim: str  # of the paper
    paper: dict[str, Any]  # the paper's numbers
    remarks: str = ""  # what agrees, what does not at this scale, and why


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A model with its training config; `config.train.flops` is its compute budget."""

    name: str
    config: RunConfig
    tokens: tuple[int, ...]  # token budgets of the evaluation


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of one contender with one seed."""

    name: str
    seed: int
    top1: dict[int, float]  # by token budget
    tflop: float
    seconds: float
    images: int


def recipe(name: str) -> RunConfig:
    """Load a config from recipes/."""
    return load_recipe(ROOT / "recipes" / f"{name}.py")


def small(config: RunConfig) -> RunConfig:
    """Return the config with a model of a quarter of the parameters, for faster experiments."""
    model = replace(config.model, dim=128, depth=4, num_heads=4, mlp_dim=512)
    return replace(config, model=model)


def parse(description: str) -> argparse.Namespace:
    """Parse the common options of an experiment."""
    return parser_of(description).parse_args()


def parser_of(description: str) -> argparse.ArgumentParser:
    """Return a parser with the common options of all experiments."""
    parser = argparse.ArgumentParser(
        description=description.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/, val/, test/")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/experiments"), help="folder for runs"
    )
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder for results")
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds per contender")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all compute budgets")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=cores, help="parallel runs on CPUs")
    return parser


def train_all(
    finding: Finding, contenders: Sequence[Contender], options: argparse.Namespace
) -> list[Outcome]:
    """Train and evaluate each contender with each seed, in ascending order of compute."""
    cheap_first = sorted(contenders, key=lambda contender: contender.config.train.flops or 0)
    tasks = [
        (_prepared(contender, seed, finding, options), contender.name, seed, contender.tokens)
        for contender in cheap_first
        for seed in range(options.seeds)
    ]
    jobs = 1 if torch.cuda.is_available() else options.jobs
    outcomes = []
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_limit_threads, initargs=(jobs,)
    ) as pool:
        for future in as_completed([pool.submit(_outcome, *task) for task in tasks]):
            outcome = future.result()
            outcomes.append(outcome)
            shown = "  ".join(f"{t} tokens {top1:.1%}" for t, top1 in outcome.top1.items())
            print(
                f"[{len(outcomes)}/{len(tasks)}] {outcome.name}, seed {outcome.seed}: {shown}, "
                f"{outcome.tflop:.1f} TFLOP in {outcome.seconds:.0f} s",
                flush=True,
            )
    return outcomes


def _limit_threads(jobs: int) -> None:
    """Share the cores among parallel jobs."""
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
    """Train, resume or read a run, and evaluate it.

    Raise SystemExit if the folder has a run with another config.
    """
    path = config.out / "outcome.json"
    if path.exists():
        record = json.loads(path.read_text())
        if record["config"] == to_json(config) and record["tokens"] == list(tokens):
            top1 = {int(t): value for t, value in record["outcome"].pop("top1").items()}
            return Outcome(**record["outcome"], top1=top1)
        raise SystemExit(f"{path} has another config: remove {config.out} or change --out")
    if list_checkpoints(config.out / CHECKPOINTS, "last"):
        if to_json(load_config(config.out)) != to_json(config):
            raise SystemExit(f"{config.out} is a run with another config: remove it")
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
    path.write_text(json.dumps(record, indent=1))
    return outcome


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation over seeds (0 for a single seed)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def percent(values: Sequence[float]) -> str:
    """Format accuracies in [0, 1] as "mean ± standard deviation" in percent."""
    mean, spread = mean_and_spread(values)
    return f"{100 * mean:.1f} ± {100 * spread:.1f}"


Top1 = dict[str, dict[int, list[float]]]  # top-1 by contender, token budget and seed


def by_tokens(outcomes: Sequence[Outcome], contenders: Sequence[Contender]) -> Top1:
    """Group top-1 by contender, in the order of the contenders."""
    return {
        contender.name: {
            tokens: [o.top1[tokens] for o in outcomes if o.name == contender.name]
            for tokens in contender.tokens
        }
        for contender in contenders
    }


def means(top1: Top1) -> dict[str, dict[int, float]]:
    """Return mean top-1 over seeds by contender and token budget."""
    return {
        name: {tokens: statistics.fmean(values) for tokens, values in by_budget.items()}
        for name, by_budget in top1.items()
    }


def compare(
    finding: Finding,
    contenders: Sequence[Contender],
    options: argparse.Namespace,
    *,
    summarize: Callable[[dict[str, dict[int, float]]], tuple[dict[str, Any], bool]],
    arguments: str | None = None,
) -> None:
    """Train contenders with equal compute, evaluate them at the same token budgets, and publish.

    summarize  from mean top-1 by contender and token budget to the numbers of this finding, and
               whether they agree with the paper
    arguments  command line arguments to print in the results; None: only --data
    """
    top1 = by_tokens(train_all(finding, contenders, options), contenders)
    mean = means(top1)
    ours, agrees = summarize(mean)
    baseline = size_baseline(options.data)
    tokens = contenders[0].tokens
    table = [["top-1, %", *(f"{t} tokens" for t in tokens)]]
    table += [[name, *(percent(by_budget[t]) for t in tokens)] for name, by_budget in top1.items()]
    table.append(["height and width alone", *[f"{100 * baseline:.1f}"] * len(tokens)])
    publish(
        finding,
        options,
        ours={**ours, "top1": mean, "size_baseline": baseline},
        agrees=agrees,
        table=table,
        figure=draw_lines(top1, baseline),
        arguments=arguments,
    )


def draw_lines(top1: Top1, baseline: float) -> bytes:
    """Draw test accuracy over tokens, one line per contender; returns a PNG."""
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    for number, (name, by_budget) in enumerate(top1.items()):
        mean, spread = zip(*(mean_and_spread(values) for values in by_budget.values()), strict=True)
        axes.errorbar(
            list(by_budget), 100 * np.array(mean), 100 * np.array(spread), capsize=2, marker="o",
            ms=4,
            color=COLORS[number % len(COLORS)], ls=("-", "--", ":")[number // len(COLORS)],
            label=name,
        )  # fmt: skip
    axes.axhline(100 * baseline, color="#888", lw=1, ls="-.", label="height and width alone")
    tokens = list(next(iter(top1.values())))
    axes.set_xscale("log", base=2)
    axes.set_xticks(tokens, map(str, tokens))
    style_axes(axes, "maximum tokens per image", "test accuracy (%)")
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=8, handlelength=3.5,
                  loc="outside right upper")  # fmt: skip
    return figure_to_png(figure)


def budgeted(config: RunConfig, flops: float, step_flops: float) -> RunConfig:
    """Return the config with a compute budget: one evaluation at the end, 10 % of it as warmup.

    flops       training operations of the run
    step_flops  training operations of a step, approximately
    """
    train = replace(config.train, flops=flops, eval_every=10**9, save_every=100)
    optim = replace(config.optim, warmup=max(1, round(0.1 * flops / step_flops)))
    return replace(config, train=train, optim=optim)


def size_baseline(data: Path, neighbors: int = 15) -> float:
    """Return the test top-1 of k nearest neighbors on log height and log width only.

    It measures how much image size reveals the class.
    """
    index = build_index(data)
    train, test = index.split("train"), index.split(TEST)
    fit, queries = (np.log(np.stack([s.heights, s.widths], axis=1)) for s in (train, test))
    distance = ((queries[:, None] - fit[None]) ** 2).sum(-1)
    votes = train.labels[np.argsort(distance, axis=1, kind="stable")[:, :neighbors]]
    predicted = [np.bincount(row, minlength=len(index.classes)).argmax() for row in votes]
    return float((np.array(predicted) == test.labels).mean())


def publish(
    finding: Finding,
    options: argparse.Namespace,
    *,
    ours: dict[str, Any],
    agrees: bool,
    table: Sequence[Sequence[str]],
    figure: bytes,
    arguments: str | None = None,
) -> None:
    """Write the numbers and the figure of a finding, and rewrite the page of all findings."""
    docs: Path = options.docs
    (docs / "findings").mkdir(parents=True, exist_ok=True)
    (docs / "findings" / f"{finding.name}.png").write_bytes(figure)
    path = docs / "findings.json"
    findings = json.loads(path.read_text()) if path.exists() else {}
    command = f"python experiments/{finding.name}.py {arguments or f'--data {options.data.name}'}"
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
    """Return the GPU's name, or the number of CPU cores and the architecture."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{len(os.sched_getaffinity(0))} CPU cores, {platform.machine()}"


def _page(findings: dict[str, dict[str, Any]]) -> str:
    lines = [INTRODUCTION]
    for name, record in findings.items():
        lines += [
            "",
            f"## {record['title']}",
            "",
            f"The paper: {record['claim']}",
            "",
            f"    {record['command']}",
            "",
            f"{record['data']}, {record['seeds']} seeds, {record['hardware']}. **"
            f"{'Agrees' if record['agrees'] else 'Does not agree'}.** {record['remarks']}".strip(),
            "",
            *_markdown(record["table"]),
            "",
            f"![{record['title']}](findings/{name}.png)",
        ]
    return "\n".join(lines) + "\n"


def _markdown(table: Sequence[Sequence[str]]) -> list[str]:
    head, *rows = table
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
