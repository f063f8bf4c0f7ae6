"""Repositories of the hub, by huggingface_hub itself, from a cache on disk without a network."""

import shutil

import huggingface_hub
import numpy as np
import pytest
from peers import make_peer

import patchpack as pp
from patchpack.pretrained.errors import PretrainedError
from pretrained_fixtures import make_image

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_cached_repository_is_loaded_offline(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    source = make_peer("dinov2", tmp_path / "source")
    repository = cache / "models--someone--dinov2"
    shutil.copytree(source, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    images = [np.asarray(make_image(40, 30))]
    expected = pp.load(source).embed(images)
    for name in ("hf-hub:someone/dinov2", f"hf-hub:someone/dinov2@{COMMIT}"):
        assert np.array_equal(pp.load(name).embed(images), expected)
    with pytest.raises(PretrainedError, match="hf-hub:someone/other cannot be fetched"):
        pp.load("hf-hub:someone/other")
