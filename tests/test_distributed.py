"""Two processes take the step that one process takes with all of their packs."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import patchpack as pp
from conftest import randomize, write_folder
from films import tiny_clips, write_films
from patchpack.config import RunConfig
from patchpack.data.index import Index
from patchpack.data.loader import LoadedPack
from patchpack.data.pipeline import training_batches
from patchpack.distributed import World
from patchpack.evaluation import data_of, evaluate
from patchpack.run import resume
from patchpack.train.loop import Trainer, TrainingError
from runs import final_tensors, prepared, tiny, trainer_of
from scenes import tiny_segmenter, write_scenes
from test_detecting import tiny_detector, write_coco

PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_distributed
test_distributed.rank_main(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
"""


def deterministic(root: Path, out: Path):
    """No noise, so that processes can be compared."""
    config = tiny(root, out, steps=4, eval_every=2, save_every=4, ema=0.0)
    return replace(config, model=replace(config.model, dropout=0.0, drop_path=0.0))


CONFIGS = {
    "classify": deterministic,
    "segment": lambda root, out: tiny_segmenter(root, out, steps=4, dice_weight=0.5),
    "detect": lambda root, out: tiny_detector(root, out, steps=4),
    "film": lambda root, out: tiny_clips(root, out, steps=4, ema=0.0),
}


def rank_main(root: Path, out: Path, what: str) -> None:
    from patchpack.distributed import init_distributed
    from patchpack.run import start

    if what in CONFIGS:
        start(CONFIGS[what](root, out), live=False)
        return
    with init_distributed() as world:
        config = still(what.removeprefix("step "), root, out)
        trainer, train = build_trainer(config, world)
        packs = batches_of_rank(train, config, world.rank)
        trainer.step([next(packs)], stop=False)
        if world.is_main:
            torch.save([p.grad for p in trainer.task.parameters()], out / "gradients.pt")


def still(what: str, root: Path, out: Path) -> RunConfig:
    """The config of a task, without the noise of training."""
    config = CONFIGS[what](root, out)
    return replace(config, model=replace(config.model, dropout=0.0, drop_path=0.0))


def build_trainer(config: RunConfig, world: World) -> tuple[Trainer, Index]:
    """A trainer of random weights that takes no step, and what it is trained on."""
    module, task_run = prepared(config, world)
    trainer = trainer_of(randomize(module), config, world)
    for optimizer in trainer.optimizers.values():
        optimizer.step = lambda: None
    return trainer, task_run.train


def batches_of_rank(train: Index, config: RunConfig, rank: int) -> Iterator[LoadedPack]:
    return training_batches(
        train, config.data, config.input, seed=config.train.seed, shard=(rank, 2)
    )


def launch(root: Path, out: Path, what: str, processes: int = 2) -> list[int]:
    """Exit statuses of the ranks."""
    out.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(processes):
        env = {
            **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        words = [
            sys.executable,
            "-c",
            PROGRAM,
            str(Path(__file__).parent),
            str(root),
            str(out),
            what,
        ]
        ranks.append(subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True))
    said = [rank.communicate(timeout=200)[1] for rank in ranks]
    sys.stderr.write("".join(said))  # one after the other: their lines would mix
    return [rank.returncode for rank in ranks]


WRITERS = {
    "classify": write_folder, "segment": write_scenes, "detect": write_coco, "film": write_films
}  # fmt: skip


@pytest.mark.parametrize("what", CONFIGS)
def test_gradients_equal_those_of_one_process(what, tmp_path):
    """Ranks hold different numbers of images, pixels and objects: the mean is over all of them, not
    of two means."""
    root = WRITERS[what](tmp_path / "data", {"train": 25, "val": 4})
    assert launch(root, tmp_path / "two", f"step {what}") == [0, 0]
    found = torch.load(tmp_path / "two" / "gradients.pt", weights_only=True)
    config = still(what, root, tmp_path / "one")
    trainer, train = build_trainer(config, World())
    packs = [next(batches_of_rank(train, config, rank)) for rank in (0, 1)]
    counts = [trainer.task.loss(pack.batch).count for pack in packs]
    assert counts[0] != counts[1]
    trainer.step(packs, stop=False)
    for parameter, gradient in zip(trainer.task.parameters(), found, strict=True):
        if gradient is None:
            assert parameter.grad is None
            continue
        atol = 1e-5 * float(gradient.abs().max()) + 1e-9
        torch.testing.assert_close(parameter.grad, gradient, atol=atol, rtol=1e-5)


def test_a_whole_run_of_two_processes(folder, tmp_path):
    """It trains, evaluates every validation image once, and saves one set of weights."""
    assert launch(folder, tmp_path / "two", "classify") == [0, 0]
    lines = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    evals = [line for line in lines if line["kind"] == "eval"]
    assert [line["step"] for line in evals] == [2, 4]
    assert (evals[-1]["top1"] * 12) == pytest.approx(round(evals[-1]["top1"] * 12))
    assert all(torch.isfinite(t).all() for t in final_tensors(tmp_path / "two").values())
    with pytest.raises(TrainingError, match="trained by 2 processes, not 1"):
        resume(tmp_path / "two", live=False)


@pytest.mark.parametrize("what", ["segment", "detect", "film"])
def test_two_processes_learn_and_judge_masks_boxes_and_clips(what, tmp_path):
    """Every weight that is trained gets its gradient, and each image is judged once."""
    counts = {"train": 16, "val": 6, "test": 2}
    root = WRITERS[what](tmp_path / "data", counts)
    assert launch(root, tmp_path / "two", what) == [0, 0]
    lines = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    logged = [line for line in lines if line["kind"] == "eval"][-1]
    served = pp.load(tmp_path / "two")
    data = data_of(tmp_path / "two", split="val")
    ((_, result),) = evaluate(served, data, (served.spec.eval_tokens,))
    if what == "film":
        assert result.counts.top1 == pytest.approx(logged["top1"])
        assert result.counts.mean_nll == pytest.approx(logged["nll"], abs=1e-4)
    elif what == "segment":
        assert result.counts.mean_iou == pytest.approx(logged["mean_iou"], abs=1e-3)
    else:
        assert (result.precision.ap or 0.0) == pytest.approx(logged["ap"], abs=1e-3)


def test_an_image_that_one_process_cannot_read_stops_both(tmp_path, capfd):
    """One is too many here; a rank that went on alone would wait for ever."""
    root = write_folder(tmp_path / "images", {"train": 16, "val": 4})
    path = root / "train" / "plain" / "002.png"
    path.write_bytes(path.read_bytes()[:90])
    assert launch(root, tmp_path / "two", "classify") == [1, 1]
    assert capfd.readouterr().err.count("1 of 48 images cannot be used") == 2
