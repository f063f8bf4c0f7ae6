"""Experiments train each run once, reuse it, and write the page of findings."""

import json
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import write_folder
from runs import tiny

ROOT = Path(__file__).parents[1]


@pytest.fixture
def study(monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    yield __import__("study")
    sys.modules.pop("study")


def test_a_finding_trains_once_and_writes_its_page(study, tmp_path, capsys):
    root = write_folder(tmp_path / "images", {"train": 6, "val": 2, "test": 2})
    config = study.budgeted(tiny(root, tmp_path, log_every=100), 4e6, 2e6)
    contenders = [
        study.Contender(name="a", config=config, tokens=(9, 36)),
        study.Contender(name="b", config=replace(config, optim=replace(config.optim, lr=1e-4)),
                        tokens=(9, 36)),
    ]  # fmt: skip
    finding = study.Finding(name="one", title="One", claim="a beats b.", paper={"a": 1})
    options = Namespace(
        data=root, out=tmp_path / "runs", docs=tmp_path / "docs", seeds=1, scale=1.0, jobs=1
    )

    def summarize(mean):
        return {"both": sum(mean["a"].values())}, False

    study.compare(finding, contenders, options, summarize=summarize)
    first = json.loads((tmp_path / "docs" / "findings.json").read_text())["one"]
    assert first["command"] == "python experiments/one.py --data images --seeds 1"
    assert set(first["ours"]["top1"]) == {"a", "b"} and first["agrees"] is False
    page = (tmp_path / "docs" / "findings.md").read_text()
    assert "a beats b." in page and "**Does not agree.**" in page and "| a |" in page
    assert (tmp_path / "docs" / "findings" / "one.png").read_bytes()[:4] == b"\x89PNG"
    mtimes = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")}
    assert mtimes
    study.compare(
        finding, contenders, options, summarize=summarize, arguments="--data x --target y"
    )
    second = json.loads((tmp_path / "docs" / "findings.json").read_text())["one"]
    assert second["ours"] == first["ours"] and "--data x --target y" in second["command"]
    assert mtimes == {path: path.stat().st_mtime_ns for path in mtimes}
    other = replace(contenders[0], config=replace(config, optim=replace(config.optim, lr=1.0)))
    with pytest.raises(SystemExit, match="has another config: remove"):
        study.compare(finding, [other], options, summarize=summarize)


def test_size_baseline_is_near_chance_for_equal_size_distributions(study, tmp_path):
    root = write_folder(tmp_path / "images", {"train": 30, "val": 2, "test": 10})
    assert study.size_baseline(root) < 0.65  # three classes
    assert study.mean_and_spread([0.2, 0.4]) == pytest.approx((0.3, 0.02**0.5))
    assert study.percent([0.25]) == "25.0 ± 0.0"
