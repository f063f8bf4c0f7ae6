"""A converted source as a run folder: what load, predict, embed, eval and --init read.

FOLDER/config.json        a RunConfig without data
FOLDER/conversion.json    source, SHA-256 of its files, family, tensors left out, check
FOLDER/checkpoints/best-00000000/
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchpack.batch import Patches, collate
from patchpack.checkpoint import load_into, save
from patchpack.config import RunConfig
from patchpack.data.config import DataConfig
from patchpack.data.patchify import patchify
from patchpack.pretrained.converted import Converted
from patchpack.pretrained.errors import PretrainedError
from patchpack.pretrained.reference import reference
from patchpack.pretrained.source import Source
from patchpack.serialization import to_json
from patchpack.tasks.backbone_module import BackboneModule
from patchpack.tasks.classification.model import Classifier
from patchpack.tasks.registry import task_of

CHECK_GRIDS = ((1, 1), (3, 40), (30, 8), (16, 16), (5, 7))  # of images, in patches
LARGEST_DEVIATION = 1e-4  # of the largest value; more is an error of the conversion
RECORD = "conversion.json"


@dataclass(frozen=True, kw_only=True)
class Check:
    """The largest deviation of a converted model, relative to the largest value."""

    against: str  # what it was compared with
    tokens: float
    pooled: float
    logits: float | None = None  # None: a model without classes

    def to_json(self) -> dict[str, Any]:
        """The values by name."""
        return asdict(self)

    def __str__(self) -> str:
        logits = "" if self.logits is None else f", logits {self.logits:.1e}"
        return f"{self.against}: tokens {self.tokens:.1e}, features {self.pooled:.1e}{logits}"


def check(source: Source, converted: Converted) -> Check:
    """Compare a converted model, on images of random pixels in one pack, with the original, where
    its library is installed, else with the same images one by one.

    Raise PretrainedError for a deviation above LARGEST_DEVIATION.
    """
    module, p = _module(source, converted), converted.model.patch_size
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (h * p, w * p, 3), dtype=np.uint8) for h, w in CHECK_GRIDS]
    images = [patchify(image, p) for image in pixels]
    tokens, pooled, logits = _outputs(module, images)
    original = reference(source, converted)
    if original is None:
        against = "packed against single images, as the original's library is not installed"
        singles = [_outputs(module, [image]) for image in images]
        expected = [(t[0], p[0], y[0]) for t, p, y in singles]
    else:
        against = f"against {original.name}"
        outputs = [original(torch.from_numpy(image)) for image in pixels]
        expected = [(o.tokens, o.pooled, o.logits) for o in outputs]
    rows = list(zip(tokens, pooled, logits, strict=True))
    deviations = [
        [_deviation(a, b) for a, b in zip(*pair, strict=True) if b is not None]
        for pair in zip(rows, expected, strict=True)
    ]
    worst = [max(values) for values in zip(*deviations, strict=True)]
    result = Check(
        against=against, tokens=worst[0], pooled=worst[1],
        logits=worst[2] if converted.classes else None,
    )  # fmt: skip
    if not max(worst) <= LARGEST_DEVIATION:
        raise PretrainedError(f"{source.name} is not converted exactly: {result}")
    return result


def _module(source: Source, converted: Converted) -> BackboneModule:
    spec = converted.spec
    module = task_of(spec.task).build(spec).eval()
    load_into(module, converted.tensors, source.name)
    return module


@torch.inference_mode()
def _outputs(
    module: BackboneModule, images: Sequence[Patches]
) -> tuple[Sequence[Tensor], Tensor, Tensor]:
    """Tokens of each image, feature vectors, and logits; without a classifier, again features."""
    batch = collate(list(images), module.backbone.config.patch_dim)
    output = module.encode(batch)
    logits = module.head(output.pooled) if isinstance(module, Classifier) else output.pooled
    return output.tokens.split(list(batch.lengths)), output.pooled, logits


def _deviation(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-12))


def write_converted(source: Source, converted: Converted, checked: Check, folder: Path) -> None:
    """Write a run folder; all of it, or nothing. Raise PretrainedError where it exists."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PretrainedError(f"{folder} exists, and is not overwritten: name another folder")
    spec = converted.spec
    data = DataConfig(resolution=spec.resolution, eval_tokens=spec.eval_tokens)
    config = RunConfig(out=folder, model=spec.model, task=spec.task, data=data)
    record = {
        "source": source.name,
        "family": converted.family,
        "files": dict(source.files),
        "left_out": list(converted.left_out),
        "check": checked.to_json(),
    }
    temporary = folder.parent / f".tmp-{folder.name}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        tensors, state = {"model": converted.tensors}, {"model_spec": to_json(spec)}
        save(temporary / "checkpoints", "best", 0, tensors=tensors, state=state)
        for name, content in (("config.json", to_json(config)), (RECORD, record)):
            (temporary / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        os.rename(temporary, folder)
    except OSError as error:
        raise PretrainedError(f"cannot write {folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
