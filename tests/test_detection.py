"""Detection: boxes, matching and loss; an image is as it would be alone."""

from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from conftest import assert_losses_add_up, assert_packed_equals_single, make_images, randomize
from patchpack.batch import collate
from patchpack.losses import focal_terms
from patchpack.model.navit import NaViTConfig
from patchpack.tasks.detection.box_ops import (
    area,
    iou_and_giou,
    nms,
    to_center_size,
    to_corners,
)
from patchpack.tasks.detection.model import (
    DetectionConfig,
    Detector,
    DetectorOutput,
    box_bias,
)
from patchpack.tasks.detection.predictor import decode_detections

MODEL = NaViTConfig(dim=12, depth=2, num_heads=2, mlp_dim=20, patch_size=2, registers=1)


def detector(**config) -> Detector:
    torch.manual_seed(0)
    return randomize(Detector(MODEL, 3, DetectionConfig(**config))).eval()


def with_boxes(images, most: int = 4):
    """Up to `most` boxes an image; the first has none, one has more than tokens."""
    generator = torch.Generator().manual_seed(2)
    for number, image in enumerate(images):
        count = 3 if len(image.patches) == 1 else number % (most + 1)
        ends = torch.rand(count, 2, 2, generator=generator).sort(1).values
        image.targets["boxes"] = ends.flatten(1)
        image.targets["box_labels"] = torch.randint(0, 3, (count,), generator=generator)
    return images


def random_boxes(count: int, seed: int = 0) -> torch.Tensor:
    ends = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)).sort(1).values
    return ends.flatten(1)


def test_overlaps_are_those_of_counted_cells():
    a, b = random_boxes(6), random_boxes(6, 1)
    cells = (torch.arange(2000) + 0.5) / 2000
    for first, second in zip(a, b, strict=True):
        inside = []
        for box in (first, second):
            rows, columns = ((cells > box[i]) & (cells < box[i + 2]) for i in (0, 1))
            inside.append(rows[:, None] & columns)
        both, either = (inside[0] & inside[1]).sum(), (inside[0] | inside[1]).sum()
        iou, giou = iou_and_giou(first, second)
        assert iou == pytest.approx(float(both / either), abs=3e-3)
        low, high = torch.minimum(first, second)[:2], torch.maximum(first, second)[2:]
        around = (high - low).prod()
        assert giou == pytest.approx(float(iou - (around - either / 2000**2) / around), abs=3e-3)
    far = torch.tensor([[0, 0, 0.1, 0.1], [0.9, 0.9, 1, 1]])
    assert iou_and_giou(far[0], far[1])[0] == 0 and iou_and_giou(far[0], far[1])[1] < -0.9
    assert iou_and_giou(a, a)[0].tolist() == pytest.approx([1] * 6)
    nothing = torch.zeros(4)
    assert iou_and_giou(nothing, nothing)[0] == 0 and area(nothing) == 0
    torch.testing.assert_close(to_corners(to_center_size(a)), a)


def test_suppression_keeps_the_best_of_each_class():
    boxes = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 0.9], [0, 0, 1, 0.95], [0.5, 0.5, 1, 1]])
    scores, labels = torch.tensor([0.6, 0.9, 0.7, 0.2]), torch.tensor([0, 0, 1, 0])
    assert nms(boxes, scores, labels, 0.5).tolist() == [1, 2, 3]
    assert nms(boxes, scores, labels, 1.0).tolist() == [1, 2, 0, 3]
    assert nms(boxes[:0], scores[:0], labels[:0], 0.5).tolist() == []


def test_a_new_detector_finds_the_patches_themselves():
    torch.manual_seed(0)
    model, batch = Detector(MODEL, 3), collate(make_images(), 12)
    with torch.no_grad():
        found = model(batch)
    grids = batch.grids[batch.segments.ids]
    expected = torch.cat([batch.coords / grids, (batch.coords + 1) / grids], 1)
    torch.testing.assert_close(to_corners(found.boxes), expected, atol=1e-3, rtol=0)
    assert found.scores.sigmoid().mean() == pytest.approx(0.01, abs=0.005)
    assert box_bias(batch).isfinite().all()


@pytest.mark.parametrize("part", [0, 1])
def test_packed_equals_single(part):
    module = detector()
    assert_packed_equals_single(
        lambda batch: module(batch)[part], list(module.head.parameters()), per="token"
    )


def test_boxes_come_from_two_nonlinear_layers():
    module, batch = detector(), collate(make_images(), 12)
    x = module.tokens(batch)
    for layer in module.head.hidden:
        x = F.gelu(layer(x))
    expected = (module.head.boxes(x) + box_bias(batch)).sigmoid()
    torch.testing.assert_close(module(batch).boxes, expected)


def test_scores_and_boxes_are_not_rounded_with_the_rest():
    """In bfloat16 scores would tie, and average precision would rank by chance."""
    module, batch = detector(), collate(make_images(grids=[(9, 8)] * 4), 12)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(batch)
    assert found.scores.dtype == found.boxes.dtype == torch.float32
    assert len(found.scores.unique()) == found.scores.numel()


def test_nms_drops_duplicates_and_keeps_neighbours():
    """Boxes that overlap by an IoU of more than a half are one object; all others are kept, best
    first, in pixels."""
    places = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.5, 0.54, 0.5, 0.5], [0.5, 0.7, 0.5, 0.5]])
    batch = collate(make_images(grids=((1, 3),)), 12)
    found = DetectorOutput(torch.tensor([[2.0], [1.0], [0.0]]), places)
    (kept,) = decode_detections(found, batch, [(100, 200)])
    assert kept.boxes.tolist() == [[25, 50, 75, 150], [25, pytest.approx(90), 75, 190]]
    many = torch.rand(400, 4, generator=torch.Generator().manual_seed(0)) * 0.01 + 1e-3
    many[:, :2] = torch.cartesian_prod(torch.arange(20), torch.arange(20)) / 20 + 0.02
    batch = collate(make_images(grids=((20, 20),)), 12)
    (kept,) = decode_detections(DetectorOutput(torch.arange(400.0)[:, None], many), batch, [(9, 9)])
    assert len(kept.scores) == 400 and (kept.scores[:-1] >= kept.scores[1:]).all()


def test_losses_and_gradients_of_a_pack_are_the_sum_of_its_images():
    images = with_boxes(make_images())
    assert_losses_add_up(detector(), images)
    objects = sum(max(1, len(image.targets["boxes"])) for image in images)
    assert detector().loss(collate(images, 12)).count == objects


def test_the_matching_is_the_cheapest_of_all():
    module = detector()
    (image,) = with_boxes(make_images(grids=((1, 1), (2, 2), (2, 2), (2, 2))))[2:3]
    image.targets["boxes"] = random_boxes(3)
    image.targets["box_labels"] = torch.tensor([0, 2, 2])
    batch = collate([image], 12)
    truth, labels = image.targets["boxes"], image.targets["box_labels"]
    found = module(batch)
    c = module.config

    def loss_of(tokens):
        told = torch.zeros(4, 3)
        told[list(tokens), labels] = 1
        giou = iou_and_giou(to_corners(found.boxes[list(tokens)]), truth)[1]
        distance = (found.boxes[list(tokens)] - to_center_size(truth)).abs().sum()
        focal = focal_terms(found.scores, told, c.focal_alpha, c.focal_gamma).sum()
        return c.class_weight * focal + c.l1_weight * distance + c.giou_weight * (1 - giou).sum()

    least = min(float(loss_of(tokens).detach()) for tokens in permutations(range(4), 3))
    assert float(module.loss(batch).sum.detach()) == pytest.approx(least, rel=1e-5)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_diverged_weights_give_a_loss_that_is_not_finite(wrong):
    """The loop names what is wrong; a matching that dies of it would not."""
    module = detector()
    with torch.no_grad():
        module.head.boxes.weight.fill_(wrong)
    assert not module.loss(collate(with_boxes(make_images()), 12)).sum.isfinite()


def test_focal_terms_are_cross_entropy_where_nothing_is_weighed():
    scores, told = torch.randn(5, 3), torch.randint(0, 2, (5, 3)).float()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(scores, told, reduction="none")
    torch.testing.assert_close(focal_terms(scores, told, 0.5, 0.0), entropy / 2)
    p = scores.sigmoid()
    expected = -0.25 * (1 - p) ** 2 * p.log()
    torch.testing.assert_close(focal_terms(scores, torch.ones(5, 3), 0.25, 2.0), expected)


def test_packs_of_nothing_and_images_of_nothing():
    module = detector()
    loss = module.loss(collate([], 12))
    loss.sum.backward()
    assert loss.count == 0 and loss.sum == 0
    assert all(p.grad is not None for p in module.parameters() if p.requires_grad)
    images = make_images()[:2]
    for image in images:
        image.targets.update(boxes=torch.zeros(0, 4), box_labels=torch.zeros(0).long())
    nothing = module.loss(collate(images, 12))
    assert nothing.count == 2 and nothing.sum.isfinite() and nothing.sum > 0
    with pytest.raises(ValueError, match="needs the target 'boxes'"):
        module.loss(collate(make_images(), 12))


def test_operations_are_those_that_pytorch_counts():
    """Of images of one length, whose tiles hold no padding."""
    module = detector()
    batch = collate(with_boxes(make_images(grids=[(3, 4)] * 9)[::2]), 12)
    with FlopCounterMode(display=False) as counter:
        loss = module.loss(batch)
        forward = counter.get_total_flops()
        loss.sum.backward()
    assert module.flops(batch.lengths) == forward
    assert module.training_flops(batch) == counter.get_total_flops()


@pytest.mark.parametrize(
    "wrong", [{"l1_weight": -1.0}, {"focal_alpha": 2.0}, {"focal_gamma": -0.1}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be at least 0|must lie in \[0, 1\]"):
        DetectionConfig(**wrong)
