"""The outputs for an image do not depend on the other images of the pack, at any level."""

import weakref
from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import patchpack as pp
from conftest import assert_packed_equals_single, make_images, randomize
from patchpack.batch import collate
from patchpack.model.attention import attend_dense, attend_tiled
from patchpack.model.attention_layout import AttentionLayout
from patchpack.model.encoder import Block, per_image_dropout
from patchpack.model.navit import forward_flops
from patchpack.model.padded import encode_padded
from patchpack.model.positions import Factorized, Interpolated, Rotary

SMALL = {"dim": 24, "depth": 2, "num_heads": 3, "mlp_dim": 48, "patch_size": 2}
VARIANTS = {
    "the paper's": {},
    "mean pooling": {"pooling": "mean"},
    "registers": {"registers": 3},
    "plain ViT": {"bias": True, "qk_norm": False, "positions": Interpolated(side=4)},
    "SigLIP 2": {"bias": True, "qk_norm": False, "activation": "gelu_tanh", "pooling": "map"},
    "layer scale": {"layer_scale": 0.1},
    "class token": {
        "bias": True, "registers": 3, "pooling": "first", "embed_norm": True,
        "final_norm": "pooled", "activation": "silu",
    },
    "mean of patches": {
        "registers": 2, "pooling": "mean", "pool_registers": False, "final_norm": "pooled",
        "positions": Interpolated(side=4, coordinates="aspect"),
    },
    "map of patches": {"registers": 2, "pool_registers": False},
    "rotary": {"positions": Rotary(), "registers": 2, "num_heads": 2},
}  # fmt: skip


def small(**changes) -> pp.Classifier:
    return pp.create_model("navit_ti16", num_classes=5, **{**SMALL, **changes})


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("level", ["embedding", "tokens", "pooled", "logits"])
def test_packed_equals_single(changes, level):
    model = randomize(small(**changes)).eval()
    functions = {
        "embedding": model.backbone.embed,
        "tokens": lambda batch: model.encode(batch).tokens,
        "pooled": lambda batch: model.encode(batch).pooled,
        "logits": model,
    }
    per = "token" if level in ("embedding", "tokens") else "image"
    assert_packed_equals_single(functions[level], list(model.parameters()), per=per)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_packed_equals_single_in_float32_with_initial_weights(changes):
    """With initial weights, outputs agree to 1e-5."""
    model = small(**changes).eval()
    images = make_images()
    packed = model.encode(collate(images, 12))
    ends = torch.tensor([len(image.patches) for image in images]).cumsum(0).tolist()
    for i, (image, end) in enumerate(zip(images, ends, strict=True)):
        single = model.encode(collate([image], 12))
        tokens = packed.tokens[end - len(image.patches) : end]
        torch.testing.assert_close(tokens, single.tokens, atol=1e-5, rtol=0)
        torch.testing.assert_close(packed.pooled[i], single.pooled[0], atol=1e-5, rtol=0)


def test_a_block_packed_equals_single():
    model = randomize(small()).eval()
    block, embed = model.backbone.encoder.blocks[0], model.backbone.embed
    assert isinstance(block, Block)
    assert_packed_equals_single(
        lambda batch: block(embed(batch), AttentionLayout.within(batch.segments), attend_tiled),
        list(block.parameters()),
        per="token",
    )


def test_changed_neighbors_change_no_bit_of_an_image():
    model = randomize(small()).eval()
    images = make_images()
    changed = [
        pp.Patches(patches=255 - i.patches, coords=i.coords, grid=i.grid) if n != 2 else i
        for n, i in enumerate(images)
    ]
    before, after = (model.encode(collate(x, 12)).pooled for x in (images, changed))
    assert torch.equal(before[2], after[2])
    assert not torch.equal(before[1], after[1])


def test_order_in_the_pack_does_not_matter():
    model = randomize(small()).eval()
    images = make_images()
    order = [3, 0, 5, 1, 4, 2]
    straight = model(collate(images, 12))
    shuffled = model(collate([images[i] for i in order], 12))
    torch.testing.assert_close(shuffled, straight[order], atol=1e-4, rtol=1e-5)


def test_the_dense_reference_agrees():
    model = randomize(small(registers=2)).eval()
    batch = collate(make_images(), 12)
    torch.testing.assert_close(
        model.encode(batch, attend_dense).pooled, model.encode(batch).pooled, atol=1e-4, rtol=1e-5
    )


def test_gradients_are_deterministic_to_the_bit():
    model = randomize(small())
    batch = collate(make_images(GRIDS_LARGE), 12)
    runs = []
    for _ in range(3):
        model.zero_grad()
        model.loss(batch).sum.backward()
        runs.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[2], strict=True))


GRIDS_LARGE = ((30, 40), (17, 23), (40, 40), (9, 100)) * 4


def test_every_parameter_is_initialized_and_trained():
    model = small(registers=2, layer_scale=0.1)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    randomize(model)
    model.loss(collate(make_images(), 12)).sum.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_dropout_is_drawn_once_per_image():
    segments = collate(make_images(), 12).segments
    torch.manual_seed(0)
    noise = per_image_dropout(segments, 4, 0.5)
    for image in range(segments.num_images):
        rows = noise[segments.ids == image]
        assert (rows == rows[0]).all() and set(rows.flatten().tolist()) <= {0.0, 2.0}
    assert len(set(map(tuple, noise.tolist()))) > 1


@pytest.mark.parametrize("changes", [{"drop_path": 0.5}, {"dropout": 0.5}], ids=str)
def test_dropout_is_for_training_only(changes):
    model, batch = randomize(small(**changes)), collate(make_images(), 12)
    assert not torch.equal(model(batch), model(batch))
    model.eval()
    assert torch.equal(model(batch), model(batch))


def test_activation_checkpointing_changes_no_gradient():
    model, batch = randomize(small(drop_path=0.3)), collate(make_images(), 12)
    gradients = []
    for recompute in (False, True):
        model.backbone.encoder.activation_checkpointing = recompute
        model.zero_grad()
        torch.manual_seed(1)
        model.loss(batch).sum.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_an_empty_pack_has_a_loss_and_gradients():
    model = small()
    loss = model.loss(collate([], 12))
    loss.sum.backward()
    assert loss.count == 0 and loss.sum.item() == 0
    # DistributedDataParallel waits for every gradient.
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_flops_of_vit_b16_equal_the_published_ones():
    """ViT-B/16 with a class token has 17.58 G multiply-adds at 224²."""
    config = pp.model_config("navit_b16", pooling="mean")
    assert forward_flops(config, [196]) / 2e9 == pytest.approx(17.5, abs=0.1)
    assert forward_flops(config, [196] * 3) == 3 * forward_flops(config, [196])


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_flops_equal_the_count_of_pytorch(changes):
    """With images of one length, whose tiles have no padding."""
    model = randomize(small(**changes))
    pack = collate(make_images(grids=[(3, 4)] * 9)[::2], 12)
    with FlopCounterMode(display=False) as counter:
        loss = model.loss(pack)
        forward = counter.get_total_flops()
        loss.sum.backward()
    assert model.flops(pack.lengths) == forward
    assert model.training_flops(pack) == counter.get_total_flops()


NORMS = {"embed_norm": True, "final_norm": "pooled", "pooling": "mean"}


@pytest.mark.parametrize("changes", [{}, VARIANTS["plain ViT"], {"layer_scale": 0.1}, NORMS])
def test_padded_rows_have_the_same_outputs_and_gradients(changes):
    model, pack = randomize(small(**changes)), collate(make_images(), 12)
    results = []
    for encode in (model.backbone.encode, partial(encode_padded, model.backbone)):
        model.zero_grad()
        encoded = encode(pack)
        (encoded.pooled.sin().sum() + encoded.tokens.cos().sum()).backward()
        grads = [p.grad.clone() for p in model.backbone.parameters()]
        results.append([encoded.tokens, encoded.pooled, *grads])
    for packed, padded in zip(*results, strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-4 * packed.abs().max().item())


def test_padded_mode_rejects_registers():
    with pytest.raises(ValueError, match="registers"):
        encode_padded(small(registers=1).backbone, collate(make_images(), 12))


def test_parameter_counts_equal_the_published_ones():
    """With biases and 1000 classes, as published; position tables differ."""
    millions = {"navit_ti16": 5.7, "navit_s16": 22.1, "navit_b16": 86.6, "navit_l16": 304.3}
    for name, expected in millions.items():
        with torch.device("meta"):
            table = Factorized(table_size=14)
            model = pp.create_model(name, 1000, pooling="mean", bias=True, positions=table)
        count = sum(p.numel() for p in model.parameters()) / 1e6
        assert count == pytest.approx(expected, rel=0.01)


def test_wrong_names_and_sizes_are_rejected():
    with pytest.raises(ValueError, match="did you mean 'navit_s16'"):
        pp.create_model("navit_s61")
    with pytest.raises(
        ValueError, match="unknown field 'dpeth' of NaViTConfig; did you mean 'depth'"
    ):
        pp.create_model("navit_ti16", dpeth=3)
    with pytest.raises(ValueError, match="not a multiple of num_heads"):
        small(num_heads=5)
    with pytest.raises(ValueError, match="pack with patch_size=2"):
        small()(collate(make_images(patch_dim=27), 27))
    with pytest.raises(ValueError, match="learned positions end at 4"):
        small(positions=Factorized(table_size=4))(collate(make_images(), 12))


def test_presets_exist():
    names = pp.list_models()
    assert {
        "navit_ti16",
        "navit_s16",
        "navit_b16",
        "navit_l16",
        "navit_so400m14",
        "navit_h14",
        "navit_b16x2",
    } <= set(names)
    assert pp.model_config("navit_ti8x2").tubelets == (pp.Tubelet(2, 8, 8),)
    assert pp.create_model("navit_ti16").head(torch.ones(1)) == 1  # no classes: features


def test_inference_keeps_the_outputs_of_at_most_two_blocks():
    """The output of a block is freed once the next block has used it."""
    model, outputs, peak = small(depth=6).eval(), [], 0

    def count_alive(block, inputs, output):
        nonlocal peak
        outputs.append(weakref.ref(output))
        peak = max(peak, sum(ref() is not None for ref in outputs))

    for block in model.backbone.encoder.blocks:
        block.register_forward_hook(count_alive)
    with torch.no_grad():
        model(collate(make_images(), 12))
    assert len(outputs) == 6 and peak <= 2
