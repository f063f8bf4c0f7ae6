"""Converted models against the originals: tokens, feature vectors, logits, on images of any size.

Run by `make test-parity`, in an environment with transformers and timm.
"""

import numpy as np
import pytest
import torch
from peers import PEERS, make_peer

from patchpack.batch import collate
from patchpack.checkpoint import load_into
from patchpack.data.patchify import patchify
from patchpack.pretrained.reference import reference
from patchpack.pretrained.registry import convert_source
from patchpack.pretrained.source import read_source
from patchpack.tasks.classification.task import build
from pretrained_fixtures import GRIDS, make_image, relative

TOLERANCE = 1e-5  # of the largest value


@pytest.mark.parametrize("name", PEERS)
def test_outputs_equal_those_of_the_original(name, tmp_path):
    source = read_source(make_peer(name, tmp_path))
    converted = convert_source(source)
    original = reference(source, converted)
    assert original is not None
    module = build(converted.spec).eval()
    load_into(module, converted.tensors, name)
    p = converted.model.patch_size
    images = [make_image(h * p, w * p) for h, w in GRIDS]
    batch = collate([patchify(np.asarray(i), p) for i in images], converted.model.patch_dim)
    with torch.inference_mode():
        packed, logits = module.encode(batch), module(batch)
    for number, (pixels, tokens) in enumerate(
        zip(images, packed.tokens.split(list(batch.lengths)), strict=True)
    ):
        expected = original(pixels)
        assert relative(tokens, expected.tokens) < TOLERANCE, ("tokens", GRIDS[number])
        assert relative(packed.pooled[number], expected.pooled) < TOLERANCE, GRIDS[number]
        if expected.logits is not None:
            assert relative(logits[number], expected.logits) < TOLERANCE, GRIDS[number]
