"""A run learns, resumes bit for bit from wherever it was stopped, and never makes things worse."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import write_folder
from patchpack.checkpoint import CheckpointError, list_checkpoints, load
from patchpack.config import RunConfig
from patchpack.data.config import DataConfig
from patchpack.data.packing.resolution import SquareResize
from patchpack.data.records import BadDataset
from patchpack.run import load_config, resume, start
from patchpack.serialization import to_json
from patchpack.train import loop
from patchpack.train.log import read_log
from patchpack.train.loop import TrainingError
from runs import final_tensors, tiny, trainer_of, with_loader


def same_weights(a: Path, b: Path) -> bool:
    left, right = final_tensors(a), final_tensors(b)
    assert left.keys() == right.keys() and any("exp_avg" in name for name in left)
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    sizes = {"train": 16, "val": 4, "test": 4}
    return write_folder(tmp_path_factory.mktemp("data") / "images", sizes)


@pytest.fixture(scope="module")
def undisturbed(root, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    start(tiny(root, out), live=False)
    return out


def test_a_run_leaves_what_it_promises(undisturbed):
    assert load_config(undisturbed) == tiny(load_config(undisturbed).data.root, undisturbed)
    assert list_checkpoints(undisturbed / "checkpoints", "best")
    assert (undisturbed / "curves.png").stat().st_size > 1000
    train, evals = (read_log(undisturbed / "log.jsonl", kind) for kind in ("train", "eval"))
    assert [record["step"] for record in train] == list(range(1, 13))
    assert [record["step"] for record in evals] == [5, 10, 12]
    for name in ("loss", "lr", "images_per_s", "tokens_per_s", "fill", "data_wait", "grad_norm"):
        assert all(record[name] >= 0 for record in train)


@pytest.mark.filterwarnings("default")  # the compiler imports what PyTorch deprecates
@pytest.mark.slow
def test_compiled_blocks_learn_the_same(root, undisturbed, tmp_path):
    start(tiny(root, tmp_path / "run", compile=True), live=False)
    losses = [
        [record["loss"] for record in read_log(run / "log.jsonl", "train")]
        for run in (tmp_path / "run", undisturbed)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_it_learns(root, tmp_path):
    config = tiny(root, tmp_path / "run", steps=150, ema=0.0, eval_every=150)
    config = replace(config, model=replace(config.model, dropout=0.0, drop_path=0.0))
    assert start(config, live=False).best >= 0.75  # three classes of stripes: chance is 0.33


@pytest.mark.parametrize(
    "loader", [{"workers": 0}, {"workers": 3}, {"workers": 2, "worker_type": "processes"}], ids=str
)
def test_loaders_change_no_bit(root, undisturbed, tmp_path, loader):
    start(with_loader(tiny(root, tmp_path / "run"), **loader), live=False)
    assert same_weights(tmp_path / "run", undisturbed)


PROGRAM = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from runs import tiny
from patchpack import run
from patchpack.train import loop
from patchpack.__main__ import main
step, number = int(sys.argv[4]), int(sys.argv[5])
original = loop.Trainer.step
def stepping(self, loaded, stop, seconds):
    sums = original(self, loaded, stop, seconds)
    if self.progress.step == step:
        os.kill(os.getpid(), number)
    return sums
loop.Trainer.step = stepping
try:
    run.start(tiny(Path(sys.argv[2]), Path(sys.argv[3])), live=False)
except loop.Stopped as stop:
    sys.exit(128 + stop.signal_number)
"""


def interrupted(root: Path, out: Path, step: int, number: int) -> int:
    """Run in a process of its own that gets a signal after a step; its exit status."""
    words = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), root, out, step, number]
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.run(list(map(str, words)), timeout=120, env=env).returncode


@pytest.mark.parametrize(
    ("number", "step", "status"),
    [
        (signal.SIGINT, 6, 130),
        (signal.SIGTERM, 3, 143),
        (signal.SIGKILL, 7, -9),
        (signal.SIGKILL, 11, -9),
    ],
    ids=str,
)
def test_a_stopped_run_continues_bit_for_bit(root, undisturbed, tmp_path, number, step, status):
    out = tmp_path / "run"
    assert interrupted(root, out, step, number) == status
    newest = list_checkpoints(out / "checkpoints", "last")[0]
    if number != signal.SIGKILL:
        assert load(newest).step == step + 1  # it finished the step that it was in, and saved
    assert resume(out, live=False).step == 12
    assert same_weights(out, undisturbed)
    assert [r["step"] for r in read_log(out / "log.jsonl", "train")] == list(range(1, 13))
    assert [r["loss"] for r in read_log(out / "log.jsonl", "train")] == [
        r["loss"] for r in read_log(undisturbed / "log.jsonl", "train")
    ]


def test_a_damaged_checkpoint_is_passed_over(root, undisturbed, tmp_path):
    out = tmp_path / "run"
    start(tiny(root, out), live=False)
    newest = list_checkpoints(out / "checkpoints", "last")[0]
    data = bytearray((newest / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (newest / "model.safetensors").write_bytes(data)
    with pytest.warns(UserWarning, match="model.safetensors is damaged"):
        assert resume(out, live=False).step == 12
    assert same_weights(out, undisturbed)


def test_a_full_disk_stops_the_run_and_spares_the_last_checkpoint(root, tmp_path, monkeypatch):
    out = tmp_path / "run"
    import patchpack.checkpoint as checkpoint

    saved = checkpoint.save_file
    calls = []

    def full(tensors, path, *rest):
        calls.append(path)
        if "last-00000008" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        saved(tensors, path, *rest)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*last-00000004"):
        start(tiny(root, out), live=False)
    monkeypatch.undo()
    assert [p.name for p in list_checkpoints(out / "checkpoints", "last")] == ["last-00000004"]
    assert not list((out / "checkpoints").glob(".tmp*"))
    assert resume(out, live=False).step == 12


def lagging(monkeypatch, lag: int) -> None:
    """Have the host hear of a step's numbers late, as on GPUs."""
    original = loop.Trainer.__init__

    def slow(self, *args):
        original(self, *args)
        self.lag = lag

    monkeypatch.setattr(loop.Trainer, "__init__", slow)


@pytest.mark.parametrize("lag", [0, 1])
def test_a_loss_that_is_not_finite_is_never_kept(root, tmp_path, monkeypatch, lag):
    from patchpack.tasks.classification import model as classification

    lagging(monkeypatch, lag)
    poison = "train/along/003.png"

    def poisoned(self, batch):
        loss = original_loss(self, batch)
        if poison in batch.keys:
            return loss._replace(sum=loss.sum * float("nan"))
        return loss

    original_loss = classification.Classifier.loss
    monkeypatch.setattr(classification.Classifier, "loss", poisoned)
    with pytest.raises(TrainingError, match=f"images whose own loss is not finite: {poison}$"):
        start(tiny(root, tmp_path / "run"), live=False)
    for path in list_checkpoints(tmp_path / "run" / "checkpoints", "last"):
        assert all(torch.isfinite(t).all() for t in load(path).tensors["model"].values())


def test_hearing_late_changes_nothing(root, tmp_path, monkeypatch):
    start(tiny(root, tmp_path / "at once"), live=False)
    lagging(monkeypatch, 1)
    start(tiny(root, tmp_path / "late"), live=False)
    late = final_tensors(tmp_path / "late")
    for name, tensor in final_tensors(tmp_path / "at once").items():
        assert torch.equal(tensor, late[name]), name


class Reads(TorchDispatchMode):
    """Counts the numbers that the host asks a device for."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


def test_a_step_reads_nothing_but_whether_the_one_before_was_finite(root, tmp_path, monkeypatch):
    lagging(monkeypatch, 1)
    reads = []
    original = loop.Trainer.step

    def counted(self, loaded, stop, seconds):
        with Reads() as counter:
            sums = original(self, loaded, stop, seconds)
        reads.append(counter.count)
        return sums

    monkeypatch.setattr(loop.Trainer, "step", counted)
    start(tiny(root, tmp_path / "run", log_every=12, eval_every=12, save_every=12), live=False)
    of_the_host = 1  # the largest grid: grids never leave it
    assert reads == [of_the_host] + 11 * [of_the_host + 1]


@pytest.mark.gpu
def test_on_a_gpu_a_step_waits_for_nothing(root, tmp_path, monkeypatch):
    original = loop.Trainer.step

    def watched(self, loaded, stop, seconds):
        warm = self.progress.step > 2
        torch.cuda.set_sync_debug_mode("error" if warm else "default")
        try:
            return original(self, loaded, stop, seconds)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(loop.Trainer, "step", watched)
    assert start(tiny(root, tmp_path / "run"), live=False).step == 12


def test_diverged_weights_are_told_from_bad_images(root, tmp_path, monkeypatch):
    original = loop.Trainer.step

    def diverge(self, loaded, stop, seconds):
        if self.progress.step == 2:
            with torch.no_grad():
                self.task.head.weight.fill_(torch.inf)
        return original(self, loaded, stop, seconds)

    monkeypatch.setattr(loop.Trainer, "step", diverge)
    with pytest.raises(TrainingError, match=r"step 3: .*the weights have diverged; lower optim.lr"):
        start(tiny(root, tmp_path / "run"), live=False)


def test_unreadable_images_are_counted_and_limited(tmp_path):
    root = write_folder(tmp_path / "images", {"train": 16, "val": 4})
    for number in (2, 5):
        path = root / "train" / "plain" / f"{number:03d}.png"
        path.write_bytes(path.read_bytes()[:90])
    config = tiny(root, tmp_path / "few")
    config = replace(config, data=replace(config.data, max_bad_fraction=0.1))
    start(config, live=False)
    noted = [r["error"] for r in read_log(tmp_path / "few" / "log.jsonl", "bad_image")]
    assert sorted(e.split(":")[0] for e in noted) == ["train/plain/002.png", "train/plain/005.png"]
    config = replace(
        config, out=tmp_path / "many", data=replace(config.data, max_bad_fraction=0.03)
    )
    with pytest.raises(BadDataset, match=r"2 of 48 images cannot be used.*plain/00[25]\.png"):
        start(config, live=False)


def test_a_resumed_run_remembers_what_it_could_not_read(tmp_path):
    """Named once, and counted towards the limit, across the pause."""
    root = write_folder(tmp_path / "images", {"train": 16, "val": 4})
    path = root / "train" / "plain" / "002.png"
    path.write_bytes(path.read_bytes()[:90])
    config = tiny(root, tmp_path / "run", steps=12)
    config = replace(config, data=replace(config.data, max_bad_fraction=0.03))
    start(config, live=False)
    longer = replace(load_config(config.out), train=replace(config.train, steps=24))
    (config.out / "config.json").write_text(json.dumps(to_json(longer)))
    progress = resume(config.out, live=False)
    assert progress.epoch >= 2  # so it was met again
    noted = read_log(config.out / "log.jsonl", "bad_image")
    assert len(noted) == 1 and noted[0]["step"] <= 12


def test_validation_images_that_cannot_be_read_are_named_once(tmp_path):
    root = write_folder(tmp_path / "images", {"train": 16, "val": 8})
    path = root / "val" / "plain" / "002.png"
    path.write_bytes(path.read_bytes()[:90])
    config = tiny(root, tmp_path / "run", steps=12)
    start(replace(config, data=replace(config.data, max_bad_fraction=0.1)), live=False)
    noted = read_log(config.out / "log.jsonl", "bad_image")
    assert [r["error"].split(":")[0] for r in noted] == ["val/plain/002.png"]


def test_a_class_of_which_nothing_can_be_read_stops_the_run(tmp_path):
    root = write_folder(tmp_path / "images", {"train": 8, "val": 4})
    for path in (root / "train" / "along").iterdir():
        path.write_bytes(path.read_bytes()[:90])
    config = tiny(root, tmp_path / "run")
    config = replace(config, data=replace(config.data, max_bad_fraction=0.9))
    with pytest.raises(BadDataset, match="none of the 8 images of class 'along' can be read"):
        start(config, live=False)


def test_validation_images_that_cannot_be_read_stop_the_run(tmp_path):
    root = write_folder(tmp_path / "images", {"train": 8, "val": 2})
    for path in (root / "val").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(BadDataset, match=r"6 of 6 images cannot be used.*: val/"):
        start(tiny(root, tmp_path / "run"), live=False)


def test_a_run_is_never_overwritten(root, undisturbed):
    with pytest.raises(TrainingError, match=r"already holds a run: continue it with --resume"):
        start(tiny(root, undisturbed), live=False)


def test_changed_images_are_noticed(tmp_path):
    root = write_folder(tmp_path / "images", {"train": 8, "val": 4})
    start(tiny(root, tmp_path / "run", steps=4), live=False)
    (root / "train" / "plain" / "000.png").unlink()
    with pytest.raises(TrainingError, match="training images are not those"):
        resume(tmp_path / "run", live=False)


def test_no_data_and_no_run_are_said_plainly(tmp_path):
    with pytest.raises(TrainingError, match="there is no data"):
        start(
            replace(
                tiny(tmp_path, tmp_path / "run"),
                data=replace(tiny(tmp_path, tmp_path).data, root=None),
            )
        )
    with pytest.raises(TrainingError, match=r"is not a run: it holds no config\.json"):
        resume(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(TrainingError, match="is not JSON"):
        resume(tmp_path)


def test_a_folder_that_cannot_be_written_is_said_plainly(root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"cannot write to .*file/run"):
        start(tiny(root, tmp_path / "file" / "run"), live=False)


def test_accumulation_takes_the_step_of_one_large_pack(root, tmp_path):
    """Two packs a step, against their gradients added up by hand."""
    from patchpack.data.index import build_index
    from patchpack.data.pipeline import training_batches
    from patchpack.tasks.classification.model import Classifier

    config = tiny(root, tmp_path / "run", grad_accumulation=2, ema=0.0)
    config = replace(config, model=replace(config.model, dropout=0.0, drop_path=0.0))
    index = build_index(root).split("train")
    torch.manual_seed(0)
    task = Classifier(config.model, 3)
    torch.nn.init.normal_(task.head.weight)
    packs = training_batches(index, config.data, config.input, seed=config.train.seed)
    loaded = [next(packs), next(packs)]
    losses = [task.loss(pack.batch) for pack in loaded]
    mean = sum(loss.sum for loss in losses) / sum(loss.count for loss in losses)
    expected = torch.autograd.grad(mean, list(task.parameters()))
    trainer = trainer_of(task, replace(config, optim=replace(config.optim, grad_clip_norm=0.0)))
    for optimizer in trainer.optimizers.values():
        optimizer.step = lambda: None
    trainer.step(loaded, stop=False)
    for parameter, gradient in zip(task.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-5)
    assert losses[0].count != losses[1].count


def test_the_configuration_of_a_run_is_kept(undisturbed):
    saved = json.loads((undisturbed / "config.json").read_text())
    assert saved == to_json(load_config(undisturbed))


def test_models_are_judged_at_the_size_they_learn_at():
    square = DataConfig(resolution=SquareResize(grid=8))
    assert square.evaluation_tokens(RunConfig().input) == 64
    assert DataConfig(max_tokens=512).evaluation_tokens(RunConfig().input) == 512
    assert replace(square, eval_tokens=9).evaluation_tokens(RunConfig().input) == 9


def test_images_without_a_label_are_not_trained_on(tmp_path, capsys):
    root = write_folder(tmp_path / "images", {"train": 8, "val": 4})
    stray = root / "train" / "stray.png"
    stray.write_bytes((root / "train" / "plain" / "000.png").read_bytes())
    start(tiny(root, tmp_path / "run", steps=2), live=False)
    assert "skipped: 1 images of the training split without a label" in capsys.readouterr().err
    for path in (root / "val").rglob("*.png"):
        path.rename(root / "val" / f"{path.parent.name}-{path.name}")
    with pytest.raises(BadDataset, match="none of the images of the validation split"):
        start(tiny(root, tmp_path / "none", steps=2), live=False)


def test_a_budget_of_operations_ends_the_run_and_its_schedule(root, tmp_path):
    """The same steps as a run of as many steps takes, and the same end of the learning rate."""
    by_steps = start(tiny(root, tmp_path / "steps", steps=12), live=False)
    budget = 0.999 * by_steps.flops
    by_flops = start(tiny(root, tmp_path / "flops", steps=1, flops=budget), live=False)
    assert by_flops.step == 12 and by_flops.flops == by_steps.flops
    lines, expected = (
        read_log(tmp_path / name / "log.jsonl", "train") for name in ("flops", "steps")
    )
    assert [line["flops"] for line in lines] == [line["flops"] for line in expected]
    rates, expected_rates = ([line["lr"] for line in each] for each in (lines, expected))
    assert rates == pytest.approx(expected_rates, rel=0.2)  # steps differ a little in operations
    assert read_log(tmp_path / "flops" / "log.jsonl", "eval")[-1]["step"] == 12


def test_a_budgeted_run_resumes_bit_for_bit(root, tmp_path, monkeypatch):
    whole = start(tiny(root, tmp_path / "whole", steps=12), live=False)
    budget = {"flops": 0.999 * whole.flops}
    start(tiny(root, tmp_path / "budget", **budget), live=False)
    original = loop.Trainer.step

    def stopping(self, loaded, stop, seconds=0.0):
        return original(self, loaded, stop or self.progress.step == 6, seconds)

    monkeypatch.setattr(loop.Trainer, "step", stopping)
    with pytest.raises(loop.Stopped):
        start(tiny(root, tmp_path / "stopped", **budget), live=False)
    monkeypatch.undo()
    resume(tmp_path / "stopped", live=False)
    assert same_weights(tmp_path / "stopped", tmp_path / "budget")


def test_a_budget_of_seconds_ends_the_run(root, tmp_path):
    progress = start(tiny(root, tmp_path / "run", steps=1, seconds=1.0), live=False)
    assert progress.step > 1 and 1 <= progress.seconds < 20


@pytest.mark.parametrize("budget", [{"flops": 0.0}, {"seconds": -1.0}])
def test_budgets_of_nothing_are_refused(root, tmp_path, budget):
    with pytest.raises(ValueError, match=f"{next(iter(budget))} must be more than 0"):
        tiny(root, tmp_path, **budget)
