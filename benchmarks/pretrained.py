"""Families of pretrained weights: deviation from the originals, and speed beside them.

    python benchmarks/pretrained.py [--out FILE.md] [--rounds 5] [--families NAME …]

Deviation: of every peer of tests/parity, tiny random models, the largest difference of tokens,
feature vectors and logits, relative to the largest value, over images of five sizes.

Speed: models of ViT-S size with random weights, the same in the original and here, on the same 32
images of 16 to 256 patches. The original computes them as its library batches images of different
sizes: padded to the longest where it takes masks (SigLIP 2 NaFlex, NaFlexViT), else one by one.
Rounds are interleaved; the table has medians. Needs the environment of `make test-parity`.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "parity")]

from peers import PEERS, from_timm, from_transformers, make_peer  # noqa: E402

from patchpack.batch import collate  # noqa: E402
from patchpack.checkpoint import load_into  # noqa: E402
from patchpack.data.patchify import patchify  # noqa: E402
from patchpack.pretrained.converted import Converted  # noqa: E402
from patchpack.pretrained.reference import Reference, reference  # noqa: E402
from patchpack.pretrained.registry import convert_source  # noqa: E402
from patchpack.pretrained.source import Source, read_source  # noqa: E402
from patchpack.tasks.backbone_module import BackboneModule  # noqa: E402
from patchpack.tasks.classification.model import Classifier  # noqa: E402
from patchpack.tasks.registry import task_of  # noqa: E402
from pretrained_fixtures import GRIDS, make_image, relative  # noqa: E402

HF = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 16}
MLP = {"intermediate_size": 1536}
TIMM = {"embed_dim": 384, "depth": 12, "num_heads": 6}
SPEED: dict[str, Callable[[Path], None]] = {
    "SigLIP 2 NaFlex": from_transformers(
        "Siglip2VisionConfig", "Siglip2VisionModel", None, **HF, **MLP, num_patches=256
    ),
    "timm NaFlexViT parfac": from_timm("naflexvit_base_patch16_parfac_gap", num_classes=0, **TIMM),
    "DINOv2 with registers": from_transformers(
        "Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", None, **HF
    ),
    "CLIP": from_transformers("CLIPVisionConfig", "CLIPVisionModel", None, **HF, **MLP),
}  # fmt: skip
PADDED = ("SigLIP 2 NaFlex", "timm NaFlexViT parfac")
Images = Sequence[np.ndarray]


def loaded(folder: Path) -> tuple[Source, Converted, Reference, BackboneModule]:
    """A source, its conversion, the original model, and the converted one."""
    source = read_source(folder)
    converted = convert_source(source)
    original = reference(source, converted)
    if original is None:
        raise SystemExit("the originals are not installed: run make test-parity first")
    module = task_of(converted.spec.task).build(converted.spec).eval()
    load_into(module, converted.tensors, str(folder))
    return source, converted, original, module


@torch.inference_mode()
def deviation(folder: Path) -> tuple[str, str, dict[str, float]]:
    """Family, original, and the largest deviation of each output."""
    _, converted, original, module = loaded(folder)
    p = converted.model.patch_size
    images = [make_image(h * p, w * p) for h, w in GRIDS]
    batch = collate([patchify(np.asarray(i), p) for i in images], converted.model.patch_dim)
    output = module.encode(batch)
    logits = module.head(output.pooled) if isinstance(module, Classifier) else output.pooled
    worst: dict[str, float] = {}
    for number, tokens in enumerate(output.tokens.split(list(batch.lengths))):
        expected = original(images[number])
        pairs = {
            "tokens": (tokens, expected.tokens),
            "pooled": (output.pooled[number], expected.pooled),
        }
        if expected.logits is not None:
            pairs["logits"] = (logits[number], expected.logits)
        for name, (a, b) in pairs.items():
            worst[name] = max(worst.get(name, 0.0), relative(a, b))
    return converted.family, original.name, worst


def sample_images(count: int, patch: int) -> Images:
    """Random images of 16 to 256 patches, of aspect ratios 1/2 to 2."""
    rng, images = np.random.default_rng(0), []
    for _ in range(count):
        tokens, aspect = rng.uniform(16, 256), np.exp(rng.uniform(-0.7, 0.7))
        h, w = (max(1, int((tokens * a) ** 0.5)) for a in (aspect, 1 / aspect))
        images.append(rng.integers(0, 256, (h * patch, w * patch, 3), dtype=np.uint8))
    return images


def padded(name: str, original: Reference, images: Images, patch: int) -> Callable[[], object]:
    """The original model on one batch that is padded to the longest image."""
    flat = [original.normalize(torch.from_numpy(image))[0] for image in images]
    grids = [(x.shape[1] // patch, x.shape[2] // patch) for x in flat]
    cells = [
        x.reshape(3, h, patch, w, patch).permute(1, 3, 2, 4, 0).reshape(h * w, -1)
        for x, (h, w) in zip(flat, grids, strict=True)
    ]
    patches = torch.nn.utils.rnn.pad_sequence(cells, batch_first=True)
    lengths = torch.tensor([len(c) for c in cells])
    valid = torch.arange(patches.shape[1]) < lengths[:, None]
    if name == "SigLIP 2 NaFlex":
        arguments: dict[str, Tensor] = {
            "pixel_values": patches, "pixel_attention_mask": valid.int(),
            "spatial_shapes": torch.tensor(grids),
        }  # fmt: skip
        return lambda: original.model(**arguments)
    coords = torch.zeros(*patches.shape[:2], 2, dtype=torch.long)
    for row, (h, w) in enumerate(grids):
        number = torch.arange(h * w)
        coords[row, : h * w] = torch.stack([number // w, number % w], dim=-1)
    batch = {"patches": patches, "patch_coord": coords, "patch_valid": valid}
    return lambda: original.model(batch)


def speed(name: str, folder: Path, rounds: int) -> tuple[str, float, float, int]:
    """How the original is batched, its seconds, those of the packed model, and tokens in all."""
    SPEED[name](folder)
    _, converted, original, module = loaded(folder)
    patch = converted.model.patch_size
    images = sample_images(32, patch)
    batch = collate([patchify(image, patch) for image in images], converted.model.patch_dim)
    if name in PADDED:
        how, run_original = "padded", padded(name, original, images, patch)
    else:
        how, tensors = "one by one", [original.normalize(torch.from_numpy(i)) for i in images]

        def run_original() -> object:
            return [original.run(pixels) for pixels in tensors]

    times: dict[str, list[float]] = {"original": [], "packed": []}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for key, run in (("original", run_original), ("packed", lambda: module.encode(batch))):
                start = time.perf_counter()
                run()
                if number:
                    times[key].append(time.perf_counter() - start)
    medians = {key: statistics.median(values) for key, values in times.items()}
    return how, medians["original"], medians["packed"], sum(batch.lengths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="Markdown file to write; default: print only")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each contender")
    parser.add_argument("--families", nargs="*", default=list(SPEED), help="models that are timed")
    options = parser.parse_args()
    lines = ["| model | original | tokens | features | logits |", "|---|---|---|---|---|"]
    for name in PEERS:
        with tempfile.TemporaryDirectory() as folder:
            make_peer(name, Path(folder))
            _, original, worst = deviation(Path(folder))
        values = [
            f"{worst[key]:.1e}" if key in worst else "" for key in ("tokens", "pooled", "logits")
        ]
        lines.append(f"| {name} | {original} | {' | '.join(values)} |")
    lines += ["", "| ViT-S size, 32 images of 16 to 256 tokens | original | packed | ratio |",
              "|---|---|---|---|"]  # fmt: skip
    for name in options.families:
        with tempfile.TemporaryDirectory() as folder:
            how, original, packed, tokens = speed(name, Path(folder), options.rounds)
        lines.append(
            f"| {name}, {tokens:,} tokens | {original:.2f} s {how} | {packed:.2f} s "
            f"| {original / packed:.1f} |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
