"""A run continues only as what it was: changed data, configs and machines are named."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import write_folder
from patchpack.checkpoint import list_checkpoints, load, save
from patchpack.cli import main
from patchpack.config import RunConfig
from patchpack.run import load_config, resume, start
from patchpack.train.items import FILE, Items, changes
from patchpack.train.stopping import TrainingError
from runs import tiny, with_loader
from scenes import tiny_segmenter, write_scenes


def short(root: Path, out: Path, **train: object) -> RunConfig:
    config = with_loader(tiny(root, out, **{"steps": 2, "save_every": 2, **train}), workers=0)
    return replace(config, model=replace(config.model, depth=1))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with data and a run on it."""
    folder = tmp_path_factory.mktemp("made")
    root = write_folder(folder / "data", {"train": 6, "val": 3})
    start(short(root, folder / "run"), live=False)
    return folder


@pytest.fixture
def run(made, tmp_path) -> Path:
    """A run of its own on data of its own."""
    for name in ("data", "run"):
        shutil.copytree(made / name, tmp_path / name, copy_function=shutil.copy2)
    edit(tmp_path / "run", str(made), str(tmp_path))
    return tmp_path / "run"


def edit(run: Path, before: str, after: str) -> None:
    path = run / "config.json"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def edit_state(run: Path, change) -> None:
    """Write the newest checkpoint again, with another state and right sums."""
    folder = list_checkpoints(run / "checkpoints", "last")[0]
    checkpoint = load(folder)
    state = dict(checkpoint.state)
    change(state)
    save(run / "checkpoints", "last", checkpoint.step, tensors=checkpoint.tensors, state=state)


def replace_pixels(path: Path) -> None:
    """Other pixels, in a file of the same length and times."""
    before = path.stat()
    with Image.open(path) as image:
        size = image.size
    Image.new("RGB", size, (255, 0, 0)).save(path)
    data = path.read_bytes()
    path.write_bytes((data + bytes(before.st_size))[: max(before.st_size, len(data))])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_replaced_file_is_named(run, split):
    replace_pixels(run.parent / "data" / split / "plain" / "002.png")
    name = {"train": "training", "val": "validation"}[split]
    expected = rf"the {name} images are not those .*1 with other contents: {split}/plain/002\.png\)"
    with pytest.raises(TrainingError, match=expected):
        resume(run, live=False)


def test_added_and_removed_files_are_named(run):
    folder = run.parent / "data" / "train" / "along"
    (folder / "003.png").rename(folder / "100.png")
    expected = r"1 added: train/along/100\.png; 1 removed: train/along/003\.png"
    with pytest.raises(TrainingError, match=expected):
        resume(run, live=False)
    (run / FILE).write_bytes(b"damaged")
    with pytest.raises(TrainingError, match=r"files were added, removed or changed"):
        resume(run, live=False)
    (folder / "100.png").rename(folder / "003.png")
    assert resume(run, live=False).step == 2


def test_a_replaced_mask_is_named(tmp_path):
    root = write_scenes(tmp_path / "data", {"train": 4, "val": 2})
    start(tiny_segmenter(root, tmp_path / "run", steps=2), live=False)
    mask = sorted((root / "masks" / "train").iterdir())[1]
    with Image.open(mask) as image:
        turned = image.transpose(Image.Transpose.ROTATE_180)
    turned.save(mask)
    with pytest.raises(TrainingError, match=rf"1 with other contents: \S*{mask.stem}"):
        resume(tmp_path / "run", live=False)


def test_classes_of_another_name_or_order_are_named(tmp_path):
    root = write_scenes(tmp_path / "data", {"train": 4, "val": 2})
    start(tiny_segmenter(root, tmp_path / "run", steps=2), live=False)
    for classes, change in {
        '["ground", "disc", "box"]': r"classes\[1\] box → disc, classes\[2\] disc → box",
        '["ground", "box", "dusk"]': r"classes\[2\] disc → dusk",
        '["ground", "box", "disc", "more"]': r"classes\[3\] none → more",
    }.items():
        (root / "classes.json").write_text(classes)
        with pytest.raises(TrainingError, match=change):
            resume(tmp_path / "run", live=False)


def test_changes_of_many_items_are_counted_and_bounded():
    keys = tuple(f"{i:02d}.png" for i in range(20))
    before = Items(keys, np.arange(20).astype(np.uint64), np.zeros(20, np.uint64), "")
    after = replace(before, facts=np.arange(20, 40).astype(np.uint64))
    text = "20 with another size, label or annotation: 00.png, 01.png, 02.png, 03.png, 04.png, …"
    assert changes(before, after) == text
    assert changes(before, before) == ""
    assert before.hash != after.hash != replace(after, contents=after.facts).hash


EDITS = {
    '"lr": 0.003': ('"lr": 0.3', "optim.lr 0.003 → 0.3"),
    '"max_tokens": 200': ('"max_tokens": 128', "data.max_tokens 200 → 128"),
    '"seed": 0': ('"seed": 1', "train.seed 0 → 1"),
    '"ema": 0.9': ('"ema": 0.5', "train.ema 0.9 → 0.5"),
    '"precision": "float32"': ('"precision": "bfloat16"', "computed in float32"),
    '"flip": "horizontal"': ('"flip": "none"', "data.augment.flip horizontal → none"),
}


@pytest.mark.parametrize(("before", "edited"), EDITS.items())
def test_an_edited_config_is_refused_by_name(run, before, edited):
    edit(run, before, edited[0])
    with pytest.raises(TrainingError, match=edited[1]):
        resume(run, live=False)


def test_harmless_edits_are_reported(run, capsys):
    edit(run, '"steps": 2', '"steps": 3')
    edit(run, '"log_every": 1', '"log_every": 2')
    edit(run, '"worker_type": "threads"', '"worker_type": "processes"')
    assert resume(run, live=False).step == 3
    err = capsys.readouterr().err
    assert "train.log_every 1 → 2" in err and "data.loader.worker_type threads → proc" in err
    assert "train.steps 2 → 3; the steps so far had the learning rates of the old length" in err
    assert "bit for bit" not in err
    resume(run, live=False)
    assert "changed in config.json" not in capsys.readouterr().err  # it is the run's config now


def test_other_versions_and_threads_are_reported(run, capsys):
    def change(state):
        state["environment"] |= {"torch": "1.0", "compute threads": "99"}

    edit_state(run, change)
    resume(run, live=False)
    threads = torch.get_num_threads()
    expected = f"torch 1.0 → {torch.__version__}, compute threads 99 → {threads}"
    assert f"does not continue bit for bit: {expected}" in capsys.readouterr().err.replace("\n", "")


def test_precision_auto_stays_what_it_was(made, tmp_path, monkeypatch, capsys):
    """On a machine that would choose another."""
    config = short(made / "data", tmp_path / "run", precision="auto")
    for supported in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, supported, lambda: True)
    start(config, live=False)
    for supported in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, supported, lambda: False)
    edit(config.out, '"steps": 2', '"steps": 4')
    assert resume(config.out, live=False).step == 4
    err = capsys.readouterr().err
    assert "train.precision auto is float32 on this machine; the run continues in bfloat16" in err
    spec = load(list_checkpoints(config.out / "checkpoints", "last")[0]).state["model_spec"]
    assert spec["dtype"] == "bfloat16"


def test_checkpoints_that_hold_less_resume_without_alarm(run, capsys):
    def change(state):
        for name in ("config", "environment", "items"):
            del state[name]
        state["images"] = fingerprint_of(run)

    edit_state(run, change)
    (run / FILE).unlink()
    edit(run, '"steps": 2', '"steps": 3')
    assert resume(run, live=False).step == 3
    err = capsys.readouterr().err
    assert "changed" not in err and "bit for bit" not in err
    (run.parent / "data" / "train" / "plain" / "000.png").unlink()
    edit_state(run, lambda state: [state.pop("items"), state.update(images="other")])
    with pytest.raises(TrainingError, match="training images are not those"):
        resume(run, live=False)


def fingerprint_of(run: Path) -> str:
    from patchpack.train.items import fingerprint
    from runs import prepared

    return fingerprint(prepared(load_config(run))[1].train)


def test_data_that_moved_are_given_a_new_root(run, capsys):
    data = run.parent / "data"
    data.rename(moved := run.parent / "moved")
    with pytest.raises(SystemExit) as exit:
        main(["train", "--resume", str(run)])
    assert exit.value.code == 2
    err = capsys.readouterr().err
    assert f"{data}, the data of {run}, is gone" in err and "--data.root NEW" in err
    with pytest.raises(SystemExit) as exit:
        main(["eval", str(run)])
    assert exit.value.code == 2 and "new place with --data" in capsys.readouterr().err
    other = write_folder(run.parent / "other", {"train": 6, "val": 3}, seed=1)
    with pytest.raises(TrainingError, match="images are not those"):
        resume(run, data_root=other, live=False)
    assert load_config(run).data.root == data
    main(["train", "--resume", str(run), f"--data.root={moved}"])
    assert load_config(run).data.root == moved
    assert "changed in config.json: data.root " in capsys.readouterr().err
    assert resume(run, live=False).step == 2


def test_a_config_without_data_is_named(run):
    edit(run, f'"root": "{load_config(run).data.root}"', '"root": null')
    with pytest.raises(TrainingError, match=r"config.json names no data: restore data.root, or"):
        resume(run, live=False)
    assert resume(run, data_root=run.parent / "data", live=False).step == 2


WRONG = {
    "[]": "config.json is not the config of a run: it is not a JSON object",
    "null": "is not the config of a run",
    "{": "is not JSON",
    '{"optim": {"lr": "high"}}': "optim.lr: expected a number",
    '{"optim": {"lr": 1e999}}': "optim.lr: inf is not finite",
    "[" * 100_000: "is nested too deeply",
}


@pytest.mark.parametrize(("text", "message"), WRONG.items(), ids=[w[:9] for w in WRONG])
def test_configs_of_a_wrong_shape_are_named_with_their_path(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(TrainingError, match=message) as error:
        resume(tmp_path, live=False)
    assert str(tmp_path / "config.json") in str(error.value) and len(str(error.value)) < 1000


def test_binary_configs_and_devices_are_named(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(
        TrainingError, match=r"config\.json is not the config of a run: it is not UTF-8 text"
    ):
        resume(tmp_path, live=False)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(TrainingError, match=r"config\.json .* it is a pipe or a device"):
        resume(tmp_path, live=False)


def test_the_state_of_a_checkpoint_is_plain(run):
    state = load(list_checkpoints(run / "checkpoints", "last")[0]).state
    assert state["config"]["optim"]["lr"] == 0.003 and len(state["items"]["train"]) == 64
    assert state["environment"]["torch"] == torch.__version__
    assert json.loads(json.dumps(state)) == state
