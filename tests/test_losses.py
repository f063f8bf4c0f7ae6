"""Losses are sums with counts, so packs of different size add up."""

import pytest
import torch
import torch.nn.functional as F

import patchpack as pp
from conftest import assert_packed_equals_single, make_images, randomize
from patchpack.batch import collate
from patchpack.losses import sigmoid_cross_entropy, softmax_cross_entropy
from patchpack.model.presets import model_config
from patchpack.tasks.classification.model import ClassificationConfig

LOSSES = {
    "softmax": softmax_cross_entropy,
    "smoothed": lambda logits, labels: softmax_cross_entropy(logits, labels, 0.1),
    "sigmoid": sigmoid_cross_entropy,
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_parts_add_up(loss):
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 4), torch.randint(4, (7,))
    whole, left, right = (
        loss(logits, labels),
        loss(logits[:2], labels[:2]),
        loss(logits[2:], labels[2:]),
    )
    torch.testing.assert_close(left.sum + right.sum, whole.sum)
    assert left.count + right.count == whole.count == 7


def test_softmax_equals_pytorch():
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    loss = softmax_cross_entropy(logits, labels, 0.1)
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(loss.sum / loss.count, expected)


def test_sigmoid_sums_over_labels():
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    targets = F.one_hot(labels, 3).float()
    probabilities = logits.sigmoid()
    terms = targets * probabilities.log() + (1 - targets) * (1 - probabilities).log()
    torch.testing.assert_close(sigmoid_cross_entropy(logits, labels).sum, -terms.sum())


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_each_images_loss_is_the_same_in_every_pack(name):
    config = model_config("navit_ti16", dim=24, depth=2, num_heads=3, mlp_dim=48, patch_size=2)
    model = randomize(pp.Classifier(config, 5, ClassificationConfig(loss=name))).eval()

    def rows(batch):
        logits, labels = model(batch), batch.targets["label"]
        loss = LOSSES[name]
        return torch.stack(
            [loss(logits[i : i + 1], labels[i : i + 1]).sum for i in range(len(labels))]
        )

    assert_packed_equals_single(rows, list(model.parameters()), per="image")
    batch = collate(make_images(), 12)
    torch.testing.assert_close(model.loss(batch).sum, rows(batch).sum())


def test_a_pack_without_labels_is_rejected():
    images = [pp.Patches(patches=i.patches, coords=i.coords, grid=i.grid) for i in make_images()]
    model = pp.create_model("navit_ti16", 3, dim=24, depth=1, num_heads=3, mlp_dim=48, patch_size=2)
    with pytest.raises(ValueError, match="needs the target 'label'"):
        model.loss(collate(images, 12))
