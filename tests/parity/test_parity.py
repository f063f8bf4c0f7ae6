"""Converted models against the originals: tokens, feature vectors, logits, on images of any size.

Run by `make test-parity`, in an environment with transformers and timm.
"""

import numpy as np
import pytest
import torch
from peers import PEERS, make_peer

import patchpack as pp
from patchpack.batch import collate
from patchpack.checkpoint import load_into
from patchpack.data.patchify import patchify
from patchpack.pretrained.reference import clip_embeddings, reference
from patchpack.pretrained.registry import convert_source
from patchpack.pretrained.source import read_source
from patchpack.tasks.classification.model import Classifier
from patchpack.tasks.registry import task_of
from pretrained_fixtures import GRIDS, SENTENCES, make_image, relative

TOLERANCE = 1e-5  # of the largest value


@pytest.mark.parametrize("name", PEERS)
def test_outputs_equal_those_of_the_original(name, tmp_path):
    source = read_source(make_peer(name, tmp_path))
    converted = convert_source(source)
    original = reference(source, converted)
    assert original is not None
    module = task_of(converted.spec.task).build(converted.spec).eval()
    load_into(module, converted.tensors, name)
    p = converted.model.patch_size
    images = [make_image(h * p, w * p) for h, w in GRIDS]
    batch = collate([patchify(np.asarray(i), p) for i in images], converted.model.patch_dim)
    with torch.inference_mode():
        packed = module.encode(batch)
        logits = module.head(packed.pooled) if isinstance(module, Classifier) else packed.pooled
    for number, (pixels, tokens) in enumerate(
        zip(images, packed.tokens.split(list(batch.lengths)), strict=True)
    ):
        expected = original(pixels)
        assert relative(tokens, expected.tokens) < TOLERANCE, ("tokens", GRIDS[number])
        assert relative(packed.pooled[number], expected.pooled) < TOLERANCE, GRIDS[number]
        if expected.logits is not None:
            assert relative(logits[number], expected.logits) < TOLERANCE, GRIDS[number]


def test_embeddings_of_images_and_texts_equal_those_of_the_original(tmp_path):
    """The tokens are those of the tokenizer beside the weights, read by its own library."""
    source = read_source(make_peer("clip_with_text", tmp_path))
    converted = convert_source(source)
    images = [make_image(4 * h, 4 * w) for h, w in GRIDS]
    expected_images, expected_texts = clip_embeddings(source, converted, images, SENTENCES)
    predictor = pp.load(tmp_path)
    texts = torch.from_numpy(predictor.embed_texts(SENTENCES))
    assert relative(texts, expected_texts) < TOLERANCE
    batch = collate([patchify(np.asarray(image), 4) for image in images], 48)
    assert relative(predictor.vectors(batch), expected_images) < TOLERANCE
    assert predictor.scale == pytest.approx(float(source.tensors["logit_scale"].exp()))
