"""Two towers: packed equals alone; a run learns, resumes exactly, and is of use afterwards."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import patchpack as pp
from conftest import assert_packed_equals_single, make_images, randomize
from pairs import TEXT, tiny_pairs, write_pairs
from patchpack.batch import collate
from patchpack.checkpoint import CheckpointError
from patchpack.data.records import BadDataset
from patchpack.distributed import init_distributed
from patchpack.inference.operating_point import OperatingPoint
from patchpack.model.navit import NaViTConfig
from patchpack.run import load_config, resume, start
from patchpack.tasks.contrastive.model import Contrastive, ContrastiveConfig
from patchpack.train import loop
from patchpack.train.log import read_log
from patchpack.train.loop import TrainingError
from runs import final_tensors
from test_cli import patchpack

MODEL = NaViTConfig(dim=16, depth=1, num_heads=2, mlp_dim=32, patch_size=2)
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import test_contrastive
test_contrastive.rank_main([int(n) for n in sys.argv[2].split(",")], sys.argv[3], sys.argv[4])
"""


def towers(loss: str = "softmax", **changes) -> Contrastive:
    torch.manual_seed(0)
    model = Contrastive(MODEL, ContrastiveConfig(text=TEXT, dim=8, loss=loss, **changes))
    randomize(model)
    with torch.no_grad():
        model.log_scale.fill_(1.5)
    return model


def images_with_texts():
    generator = torch.Generator().manual_seed(5)
    return [
        replace(image, text=torch.randint(0, 300, (1 + n,), generator=generator, dtype=torch.int32))
        for n, image in enumerate(make_images())
    ]


def test_packed_equals_single():
    model = towers()
    parameters = [*model.backbone.parameters(), *model.image_projection.parameters()]
    assert_packed_equals_single(model, parameters, per="image", images=images_with_texts())


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_the_loss_is_that_of_the_whole_matrix(loss):
    model, batch = towers(loss), collate(images_with_texts(), 12)
    found = model.loss(batch)
    logits = model.scale * model(batch) @ model.encode_texts(batch.texts).T
    own = torch.arange(len(logits))
    if loss == "softmax":
        expected = F.cross_entropy(logits, own, reduction="sum")
        expected = 0.5 * (expected + F.cross_entropy(logits.T, own, reduction="sum"))
    else:
        signs = 2 * torch.eye(len(logits)) - 1
        expected = -F.logsigmoid((logits + model.bias) * signs).sum()
    torch.testing.assert_close(found.sum, expected)
    assert found.count == 6
    parameters = [p for p in model.parameters() if p.requires_grad]
    found, expected = (
        torch.autograd.grad(total, parameters, retain_graph=True) for total in (found.sum, expected)
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5 * max(1.0, float(b.abs().max())), rtol=0)


def rank_main(counts: list[int], loss: str, out: str) -> None:
    """One of several processes: its own images, the gradient that DistributedDataParallel sums."""
    from torch.nn.parallel import DistributedDataParallel

    from patchpack.train.loop import Objective

    with init_distributed() as world:
        start = sum(counts[: world.rank])
        mine = images_with_texts()[start : start + counts[world.rank]]
        model = towers(loss)
        objective = DistributedDataParallel(Objective(model))
        objective(collate(mine, 12)).sum.backward()
        if world.is_main:  # DistributedDataParallel averages
            grads = {
                n: p.grad * world.size for n, p in model.named_parameters() if p.grad is not None
            }
            torch.save(grads, f"{out}/gradients.pt")


@pytest.mark.parametrize(("loss", "counts"), [("softmax", (4, 2)), ("sigmoid", (1, 0, 5))], ids=str)
def test_processes_of_unequal_packs_equal_one(loss, counts, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shape = ",".join(map(str, counts))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), shape, loss, str(tmp_path)],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(len(counts)),
                 "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        )
        for rank in range(len(counts))
    ]  # fmt: skip
    assert [process.wait(120) for process in processes] == [0] * len(counts)
    model = towers(loss)
    model.loss(collate(images_with_texts(), 12)).sum.backward()
    found = torch.load(tmp_path / "gradients.pt")
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            highest = max(1.0, float(parameter.grad.abs().max()))
            torch.testing.assert_close(found[name], parameter.grad, atol=2e-6 * highest, rtol=0)


def test_a_locked_trunk_is_not_trained():
    model = towers().train()
    model.freeze()
    assert not model.backbone.training and model.text.training
    model.loss(collate(images_with_texts(), 12)).sum.backward()
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert all(parameter.grad is not None for parameter in model.text.parameters())


def test_texts_are_needed():
    with pytest.raises(ValueError, match="needs a text for every image"):
        towers().loss(collate(make_images(), 12))
    assert towers().loss(collate([], 12)).count == 0


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("data"), {"train": 64, "val": 16, "test": 16})


@pytest.fixture(scope="module")
def run(root, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    start(tiny_pairs(root, out, steps=60), live=False)
    return out


def test_it_learns_and_leaves_what_it_promises(run):
    evals = read_log(run / "log.jsonl", "eval")
    assert evals[-1]["recall@1"] > 0.6  # eight kinds of images: chance is 0.12
    assert (run / "tokenizer.json").exists() and (run / "curves.png").exists()
    assert load_config(run).task.text == TEXT


def test_a_stopped_run_resumes_to_the_bit(root, tmp_path, monkeypatch):
    config = tiny_pairs(root, tmp_path / "whole")
    start(config, live=False)
    step = loop.Trainer.step

    def stopping(self, loaded, stop, seconds=0.0):
        return step(self, loaded, stop or self.progress.step == 5, seconds)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Trainer, "step", stopping)
        with pytest.raises(loop.Stopped):
            start(replace(config, out=tmp_path / "stopped"), live=False)
    resume(tmp_path / "stopped", live=False)
    whole, resumed = final_tensors(config.out), final_tensors(tmp_path / "stopped")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_eval(capsys, run):
    status, out, _ = patchpack(capsys, "eval", run, "--budgets", 16, 64, "--json")
    record = json.loads(out)
    assert status == 0 and [r["max_tokens"] for r in record["retrieval"]] == [16, 64]
    assert record["retrieval"][1]["recall@5"] > 0.5 and record["retrieval"][1]["texts"] == 16
    assert record["budgets"][1]["top1"] > 0.5  # by the names of the labels
    status, out, _ = patchpack(capsys, "eval", run, "--where", "side=1")
    assert status == 0 and "8 images, 8 texts" in out and "recall@10" in out and "top-1" in out


def test_zero_shot_with_templates(capsys, run, tmp_path):
    templates = tmp_path / "templates.txt"
    templates.write_text("{}\nan image of {}\n")
    status, out, _ = patchpack(capsys, "eval", run, "--templates", templates, "--json")
    assert status == 0 and json.loads(out)["budgets"][0]["top1"] > 0.5
    templates.write_text("an image\n")
    status, _, err = patchpack(capsys, "eval", run, "--templates", templates)
    assert status == 2 and "needs {} in place of the class name" in err


def test_embed_predict_and_search(capsys, run, root, tmp_path):
    (tmp_path / "texts.txt").write_text("red plain\n\nblue stripes\n")
    status, out, _ = patchpack(capsys, "embed", run, root.parent, "--texts", tmp_path / "texts.txt",
                               "-o", tmp_path / "v.npz", "--json")  # fmt: skip
    assert status == 0 and json.loads(out)["shape"] == [96, 8]
    found = np.load(tmp_path / "v.npz")
    assert found["texts"].tolist() == ["red plain", "blue stripes"]
    np.testing.assert_allclose(np.linalg.norm(found["text_vectors"], axis=1), 1, rtol=1e-5)
    best = found["keys"][(found["vectors"] @ found["text_vectors"][0]).argmax()]
    assert int("".join(c for c in Path(best).stem if c.isdigit())) % 4 == 0  # a red one
    red = root.parent / "test0.png"
    status, out, _ = patchpack(capsys, "predict", run, red, "--labels", "red plain", "blue plain")
    assert status == 0 and ": red plain " in out
    status, out, _ = patchpack(capsys, "search", run, root.parent, "red plain", "blue stripes",
                               "--top", 3)  # fmt: skip
    assert status == 0 and str(best) in out and len(out.splitlines()) == 9
    with Image.open(run / "search.png") as drawn:
        assert drawn.width > 3 * 128 and drawn.height > 2 * 48


def test_what_serves_is_what_was_evaluated(run, root):
    served = pp.load(run)
    assert isinstance(served, pp.ImageTextPredictor)
    vectors = served.embed([root.parent / "test0.png", root.parent / "test1.png"])
    alone = served.embed([root.parent / "test1.png"])
    np.testing.assert_allclose(vectors[1], alone[0], atol=1e-5)
    assert served.embed_texts([]).shape == (0, 8) and served.embed([]).shape == (0, 8)


WRONG = [
    (["predict", "RUN", "IMAGE"], "needs --labels to choose from"),
    (["search", "RUN", "DIR", " "], "the text ' ' is empty"),
    (["search", "RUN", "nowhere", "red"], "there is no such file"),
    (["search", "RUN", "DIR"], "there is no query"),
    (["search", "RUN", "DIR", "red", "--picture", "p.xyz"], "a picture ends in .png"),
    (["search", "RUN", "DIR", "red", "--top", "0"], "top must be at least 1"),
    (["embed", "RUN", "-o", "v.npz"], "nothing to embed"),
    (["embed", "RUN", "--texts", "IMAGE", "-o", "v.npz"], "is not UTF-8 text"),
    (["eval", "RUN", "--where", "vendor=x"], "no column 'vendor'"),
]


@pytest.mark.parametrize(("words", "says"), WRONG)
def test_wrong_commands_say_what_to_do(capsys, run, root, words, says):
    names = {"RUN": run, "DIR": root.parent, "IMAGE": root.parent / "test0.png"}
    status, _, err = patchpack(capsys, *(names.get(word, word) for word in words))
    assert status == 2 and says in err and len(err.splitlines()) == 1


def test_images_without_texts_are_skipped_and_named(root, tmp_path):
    lines = [json.loads(line) for line in root.read_text().splitlines()]
    lines[3]["captions"], lines[4]["captions"] = [], ["", " "]
    for line in lines:
        line["path"] = str(root.parent / line["path"])
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = tiny_pairs(manifest, tmp_path / "run", steps=1)
    with pytest.raises(BadDataset, match=r"2 of 96 images cannot be used .*: has no text"):
        start(config, live=False)
    data = replace(config.data, max_bad_fraction=0.1)
    start(replace(config, data=data), live=False)
    left = read_log(tmp_path / "run/log.jsonl", "bad_image")
    assert [Path(record["error"]).name for record in left] == [
        f"train{n}.png: has no text" for n in (3, 4)
    ]


def test_a_vocabulary_that_does_not_fit_is_refused(root, run, tmp_path):
    small = replace(TEXT, vocab_size=270)
    config = tiny_pairs(root, tmp_path / "run", text=small)
    config = replace(config, data=replace(config.data, tokenizer=run / "tokenizer.json"))
    with pytest.raises(BadDataset, match=r"vocabulary 270: set task.text.vocab_size to 2\d\d"):
        start(config, live=False)


def test_a_run_begins_with_the_trunk_of_another(root, run, tmp_path):
    """Locked, it stays what it was; with the same tokenizer the text side comes along too."""
    config = replace(tiny_pairs(root, tmp_path / "run", steps=2), init=run)
    config = replace(config, train=replace(config.train, freeze_backbone=True))
    start(config, live=False)
    begun, before = final_tensors(tmp_path / "run"), pp.load(run).model.state_dict()
    assert torch.equal(begun["model/backbone.pool.probe"], before["backbone.pool.probe"])
    assert not torch.equal(begun["model/text_projection.weight"], before["text_projection.weight"])
    other = replace(config, out=tmp_path / "other", model=replace(config.model, dim=24))
    with pytest.raises(CheckpointError, match="another architecture"):
        start(other, live=False)


def test_a_changed_caption_stops_a_resume(root, tmp_path):
    copy = write_pairs(tmp_path / "data", {"train": 64, "val": 16, "test": 16})
    start(tiny_pairs(copy, tmp_path / "run", steps=2), live=False)
    copy.write_text(copy.read_text().replace("an image of red", "a picture of red"))
    with pytest.raises(TrainingError, match="are not those that"):
        resume(tmp_path / "run", live=False)


def test_labels_play_no_part(root, tmp_path):
    """Each image with a label of its own: a classifier would refuse them."""
    lines = [json.loads(line) for line in root.read_text().splitlines()]
    for number, line in enumerate(lines):
        line |= {"path": str(root.parent / line["path"]), "label": f"label {number}"}
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    start(tiny_pairs(manifest, tmp_path / "run", steps=1), live=False)


def test_a_tokenizer_that_lies_in_the_way_is_not_taken(root, run, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "tokenizer.json").write_text("{}")
    start(tiny_pairs(root, out, steps=1), live=False)
    assert (out / "tokenizer.json").read_text() == (run / "tokenizer.json").read_text()


def test_a_budget_that_a_text_does_not_fit_is_refused_at_once(root, tmp_path):
    config = tiny_pairs(root, tmp_path / "run")
    config = replace(config, data=replace(config.data, max_text_tokens=3))
    with pytest.raises(
        BadDataset, match=r"data\.max_text_tokens is 3: raise data\.max_text_tokens"
    ):
        start(config, live=False)
    assert not (tmp_path / "run").exists()


def test_what_was_chosen_is_used_by_two_towers_too(run, root):
    model, image, names = pp.load(run), root.parent / "test0.png", ["red plain", "blue plain"]
    plain = {n: model.predict([image], names, max_tokens=n)[0].probability for n in (4, 36)}
    model.operating_point = OperatingPoint(max_tokens=4, second_pass_tokens=36, threshold=1.0)
    assert model.predict([image], names)[0].probability == pytest.approx(plain[36])
    model.operating_point = OperatingPoint(max_tokens=4)
    assert model.predict([image], names)[0].probability == pytest.approx(plain[4])
    model.operating_point = OperatingPoint(max_tokens=4, temperature=20.0)
    assert model.predict([image], names)[0].probability < plain[4]


def test_output_files_keep_the_names_that_they_are_given(capsys, run, root, tmp_path):
    (tmp_path / "v.npz").write_text("another file")
    status, out, _ = patchpack(
        capsys, "embed", run, root.parent / "test0.png", "-o", tmp_path / "v.1"
    )
    assert status == 0 and (tmp_path / "v.1.npz").exists() and "v.1.npz" in out
    assert (tmp_path / "v.npz").read_text() == "another file"


def test_templates_are_part_of_what_is_kept(capsys, run, tmp_path):
    templates = tmp_path / "t.txt"
    templates.write_text("an image of {}\n")
    words = ("eval", run, "--suite", "calibration", "--budgets", 16, "--json")
    plain, other = patchpack(capsys, *words), patchpack(capsys, *words, "--templates", templates)
    assert json.loads(plain[1])["calibration"] != json.loads(other[1])["calibration"]
