"""What is served gives the answers that were evaluated, with less memory."""

import torch

from conftest import make_images, randomize
from patchpack.batch import collate
from patchpack.inference.model_spec import ModelSpec
from patchpack.loading import round_matrices
from patchpack.model.navit import NaViTConfig
from patchpack.tasks.classification.model import ClassificationConfig, Classifier
from patchpack.tasks.classification.predictor import ClassificationPredictor


def predictor() -> ClassificationPredictor:
    config = NaViTConfig(dim=24, depth=2, num_heads=3, mlp_dim=40, patch_size=2)
    spec = ModelSpec(
        model=config, task=ClassificationConfig(), classes=("a", "b", "c"), dtype="bfloat16"
    )
    torch.manual_seed(0)
    model = randomize(Classifier(config, 3, spec.task))
    return ClassificationPredictor(model, spec, torch.device("cpu"))


def test_matrices_rounded_once_give_the_same_bits_as_rounded_in_each_pass():
    pack = collate(make_images(), 12)
    served = predictor()
    before = served.vectors(pack), served.logits(pack)
    size = sum(p.nbytes for p in served.model.parameters())
    round_matrices(served.model, torch.bfloat16)
    assert sum(p.nbytes for p in served.model.parameters()) < 0.7 * size
    for a, b in zip(before, (served.vectors(pack), served.logits(pack)), strict=True):
        assert torch.equal(a, b) and a.dtype == torch.float32 and a.std() > 0.01


def test_the_stream_stays_in_float32_beside_rounded_matrices():
    served = predictor()
    round_matrices(served.model, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert served.model.backbone.embed(collate(make_images(), 12)).dtype == torch.float32


def test_a_pack_that_was_predicted_can_be_trained_on():
    pack = collate(make_images(), 12)
    served = predictor()
    with torch.inference_mode():
        served.model(pack)
    served.model.loss(pack).sum.backward()
    assert all(p.grad is not None for p in served.model.parameters())
