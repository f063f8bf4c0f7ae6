"""A new task is one folder and one line: `examples/depth`, put into a copy of the package, trains,
loads, evaluates and predicts through the same commands."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import patchpack

EXAMPLE = Path(__file__).parents[1] / "examples" / "depth"
LINE = "from patchpack.tasks.depth import DEPTH\n"


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """A copy of the package with the example's folder, and its line in the registry."""
    parent = tmp_path_factory.mktemp("package")
    copy = parent / "patchpack"
    shutil.copytree(Path(patchpack.__file__).parent, copy)
    shutil.copytree(EXAMPLE, copy / "tasks" / "depth")
    registry = copy / "tasks" / "registry.py"
    text = registry.read_text()
    assert "TASKS: tuple[TaskSpec, ...] = (\n" in text
    text = text.replace(
        "TASKS: tuple[TaskSpec, ...] = (\n", "TASKS: tuple[TaskSpec, ...] = (\n    DEPTH,\n"
    )
    registry.write_text(
        text.replace("from patchpack.tasks.detection", LINE + "from patchpack.tasks.detection", 1)
    )
    return parent


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """Brightness falls with depth, as in fog."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    lines = []
    for split, count in (("train", 24), ("val", 6), ("test", 4)):
        for number in range(count):
            height, width = rng.integers(16, 40, 2)
            y, x = np.mgrid[:height, :width]
            meters = 1 + 8 * np.abs(np.sin(y / 9 + number) * np.cos(x / 11))
            gray = (255 / meters + rng.integers(0, 6, (height, width))).clip(0, 255)
            name = f"{split}{number}"
            Image.fromarray(np.repeat(gray[..., None], 3, 2).astype(np.uint8)).save(
                root / f"{name}.png"
            )
            Image.fromarray((meters * 1000).astype(np.uint16)).save(root / f"{name}-depth.png")
            lines.append(f"{name}.png,{split},{name}-depth.png\n")
    path = root / "manifest.csv"
    path.write_text("path,split,depth\n" + "".join(lines))
    return path


def command(package: Path, *words: object) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "patchpack", *map(str, words)],
        env=env, capture_output=True, text=True, timeout=250,
    )  # fmt: skip


def test_a_task_in_one_folder_trains_evaluates_and_predicts(package, manifest, tmp_path):
    run = tmp_path / "run"
    done = command(
        package, "train", manifest, "--out", run, "--preset", "navit_ti8", "--model.dim", 32,
        "--model.depth", 2, "--model.num-heads", 2, "--model.mlp-dim", 64, "--model.patch-size", 4,
        "--optim.lr", "0.01", "--optim.warmup", 5, "--data.max-tokens", 400,
        "--data.augment.flip", "horizontal", "--data.augment.min-crop-area", "0.5",
        "--data.augment.mosaic", "0.2", "--train.steps", 60, "--train.eval-every", 10,
        "task:depth-config",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    errors = [line["abs_rel"] for line in lines if line["kind"] == "eval"]
    best = min(errors)
    assert best < 0.8 * errors[0] and f"best abs_rel {best:.4f}" in done.stdout  # lower is better
    done = command(package, "eval", run, "--split", "val", "--json")
    assert json.loads(done.stdout)["budgets"][0]["abs_rel"] == pytest.approx(best, rel=1e-3)
    image = manifest.parent / "test0.png"
    done = command(package, "predict", run, image, "-o", tmp_path / "depth", "--json")
    record = json.loads(done.stdout)
    assert done.returncode == 0 and 0.5 < record["median_m"] < 10
    assert np.array(Image.open(record["output"])).shape == np.array(Image.open(image)).shape[:2]
    done = command(package, "eval", run, "--suite", "cost")
    assert done.returncode == 2 and "is a depth estimator" in done.stderr
    done = command(package, "predict", run, image, "--top", 3)
    assert done.returncode == 2 and "--top is for classification, contrastive" in done.stderr


def test_data_of_other_tasks_name_the_option(package, manifest, tmp_path):
    done = command(package, "train", manifest, "--out", tmp_path / "run")
    assert (
        done.returncode == 2 and "to train on its depth maps, add task:depth-config" in done.stderr
    )
