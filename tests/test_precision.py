"""Models in half and double precision, and what is not a pack: the right answer or what to call."""

import copy
from functools import partial

import numpy as np
import pytest
import torch

import patchpack as pp
from conftest import make_images, randomize
from patchpack.batch import collate, pack_texts
from patchpack.model.navit import NaViTConfig
from patchpack.model.padded import encode_padded
from patchpack.model.positions import (
    Factorized,
    Fourier,
    Interpolated,
    Learned2D,
    Rotary,
    Sinusoidal,
)
from patchpack.model.text import TextConfig
from patchpack.model.video import VideoConfig
from patchpack.tasks.classification.model import Classifier
from patchpack.tasks.contrastive.model import Contrastive, ContrastiveConfig
from patchpack.tasks.detection.model import Detector
from patchpack.tasks.segmentation.model import MaskTransformer, SegmentationConfig, Segmenter

SIZES = {"dim": 24, "depth": 2, "num_heads": 2, "mlp_dim": 48, "patch_size": 2}
PACK = collate(make_images(), 12)
TEXTS = pack_texts([torch.tensor(ids) for ids in ([1, 2, 3], [4], [5, 6])])
TEXT = TextConfig(dim=24, depth=1, num_heads=2, mlp_dim=24, vocab_size=16, max_length=5)
PAIRS = ContrastiveConfig(text=TEXT, dim=8)
SHAPES = (pp.Tubelet(2, 2, 2), pp.Tubelet(4, 4, 4))
FRACTIONAL = Factorized(coordinates="fractional")
POSITIONS = {
    "absolute": Factorized(),
    "fractional": FRACTIONAL,
    "product": Factorized(combine="product"),
    "table": Learned2D(),
    "interpolated": Interpolated(side=4),
    "sinusoidal": Sinusoidal(),
    "Fourier": Fourier(),
    "rotary": Rotary(),
}


def classifier(**changes) -> Classifier:
    return Classifier(NaViTConfig(**SIZES, **changes), 5)


def video(*tubelets, **changes) -> tuple[Classifier, object]:
    """A model of clips, and a pack of two of them."""
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 256, shape, np.uint8) for shape in ((8, 8, 8, 3), (4, 4, 8, 3))]
    model = Classifier(VideoConfig(**SIZES, tubelets=tubelets, **changes), 5)
    return model, pp.pack_clips(clips, tubelets)


def cases() -> dict:
    """A model and what is called with it, by name."""
    found = {
        f"{name} positions": (classifier(positions=positions), lambda m: m(PACK))
        for name, positions in POSITIONS.items()
    }
    image, segment = NaViTConfig(**SIZES), SegmentationConfig(decoder=MaskTransformer())
    found["registers"] = classifier(registers=3, positions=Rotary()), lambda m: m(PACK)
    found["mean pooling"] = classifier(pooling="mean"), lambda m: m(PACK)
    plain = classifier(bias=True, qk_norm=False, layer_scale=0.1)
    found["plain"] = plain, lambda m: m(PACK)
    found["padded"] = classifier(), lambda m: encode_padded(m.backbone, PACK).pooled
    found["images of pairs"] = Contrastive(image, PAIRS), lambda m: m(PACK)
    found["texts of pairs"] = Contrastive(image, PAIRS), lambda m: m.encode_texts(TEXTS)
    found["boxes"] = Detector(image, 3), lambda m: torch.cat(m(PACK), 1)
    found["boxes by text"] = (
        Detector(image, 3, text_tower=PAIRS),
        lambda m: torch.cat(m(PACK), 1),
    )
    found["masks"] = Segmenter(image, 3), lambda m: m(PACK)
    found["mask transformer"] = Segmenter(image, 3, segment), lambda m: m(PACK)
    one, clips = video(SHAPES[0])
    found["clips"] = one, lambda m: m(clips)
    both, mixed = video(*SHAPES, positions=FRACTIONAL, time_coordinates="fractional")
    found["tubelets of two shapes"] = both, lambda m: m(mixed)
    return found


TOLERANCE = {torch.float16: 0.02, torch.bfloat16: 0.12, torch.float64: 1e-4}


def small_weights(model: torch.nn.Module) -> torch.nn.Module:
    randomize(model).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 0.5
    return model


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", cases())
def test_a_model_works_in_every_precision(name, dtype):
    """The outputs have the type of the weights, and differ from float32's by its rounding."""
    model, call = cases()[name]
    small_weights(model)
    with torch.no_grad():
        exact = call(model)
        rounded = call(copy.deepcopy(model).to(dtype))
    assert rounded.dtype == dtype
    scale = max(1.0, float(exact.abs().max()))
    assert float((rounded.double() - exact.double()).abs().max()) <= TOLERANCE[dtype] * scale


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_packed_equals_single_in_every_precision(dtype):
    model = small_weights(classifier(positions=Rotary(), registers=2)).to(dtype)
    images = make_images()
    with torch.no_grad():
        packed = model(PACK)
        single = torch.cat([model(collate([image], 12)) for image in images])
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(packed, single, rtol=tolerance, atol=tolerance)


def test_dropout_keeps_the_precision():
    model = classifier(dropout=0.3, drop_path=0.3).bfloat16().train()
    loss = model.loss(PACK)
    loss.sum.backward()
    assert all(p.grad.dtype == torch.bfloat16 for p in model.parameters())


UNPACKED = (
    torch.zeros(2, 3, 4, 4),
    [torch.zeros(3, 4, 4)],
    [np.zeros((4, 4, 3), np.uint8)],
    np.zeros((2, 4, 4, 3)),
    "a.png",
    None,
    TEXTS,
)


@pytest.mark.parametrize("images", UNPACKED, ids=lambda images: type(images).__name__)
def test_images_that_are_not_packed_raise_with_the_call_that_packs_them(images):
    for model, _ in cases().values():
        calls = [model, model.encode, model.loss, model.backbone, model.backbone.encode,
                 model.backbone.embed, partial(encode_padded, model.backbone)]  # fmt: skip
        for call in calls:
            with pytest.raises((TypeError, ValueError), match=r"pp\.pack\(|neither registers"):
                call(images)


def test_texts_that_are_not_packed_raise_with_the_call_that_packs_them():
    model = Contrastive(NaViTConfig(**SIZES), PAIRS)
    for texts in (torch.tensor([1, 2]), ["a cat"], [[1, 2]]):
        with pytest.raises(TypeError, match="pack_texts"):
            model.encode_texts(texts)


def test_an_array_of_images_is_a_list_of_them():
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), np.uint8)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    expected = pp.pack(list(images))
    for batch in (pp.pack(images), pp.pack(tensor)):
        assert torch.equal(batch.patches, expected.patches) and batch.lengths == expected.lengths
    with pytest.raises(ValueError, match=r"put a single image in a list: pp\.pack"):
        pp.pack(images[0])
