"""A run's best weights on images they were not trained on, at several token budgets.

data = data_of(run, split="test")
classify_at(load(run), data, budgets=(64, 256))       a classifier: is the label right?
retrieve_at(load(run), data, budgets)                 two towers: do texts find their images?
zero_shot_at(load(run), data, templates, budgets)     … and images the name of their class?
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from patchpack.batch import PackedBatch
from patchpack.data.bad_images import BadImages
from patchpack.data.index import Index, build_index
from patchpack.data.layouts import BadDataset
from patchpack.data.pairs import Pairs, pair_up, read_captions
from patchpack.evaluate.classification import Counts, classify
from patchpack.evaluate.retrieval import encode_captions, readable, recalls
from patchpack.model.navit import forward_flops
from patchpack.packs import evaluation_packs
from patchpack.run import load_config
from patchpack.serve.images import PACK_TOKENS, ImageModel
from patchpack.serve.matcher import Matcher
from patchpack.serve.predictor import Predictor
from patchpack.train.loop import TrainingError


class Data(NamedTuple):
    """Images to judge with."""

    index: Index
    max_bad_fraction: float  # of them that may be unreadable


def data_of(
    folder: Path,
    *,
    split: str,
    data: Path | None = None,
    where: Sequence[str] = (),
    max_bad_fraction: float | None = None,
    learned: bool = True,
) -> Data:
    """One split of a run's own data, or of another folder.

    where             "column=value" of a manifest: the images to take
    learned           whether the model learned the classes; two towers are asked of any
    max_bad_fraction  as the run has it, when None
    """
    config = load_config(folder).data
    if max_bad_fraction is None:
        max_bad_fraction = config.max_bad_fraction
    root = data or config.root
    if root is None:
        raise TrainingError(f"{folder} does not say where its data are: give --data")
    index = build_index(root, max_bad_fraction=max_bad_fraction, learned=learned)
    if not where and data is None:
        where = config.where
    return Data(index.where(where).split(split), max_bad_fraction)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What judging at one token budget took."""

    max_tokens: int  # most tokens of an image
    gflops_per_image: float  # of a forward pass of the image side, the mean
    images_per_s: float  # loading included
    unreadable: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class BudgetResult(Cost):
    """How well images were classified at one token budget."""

    counts: Counts


@dataclass(frozen=True, kw_only=True)
class RetrievalResult(Cost):
    """How well texts and images found each other at one token budget."""

    recalls: dict[str, float]
    images: int
    texts: int  # distinct ones


def classify_at(model: Predictor, data: Data, budgets: Sequence[int]) -> list[BudgetResult]:
    """Accuracy of a classifier at each budget.

    The classes of the data must all be known to the model; raises BadDataset where one is not,
    and where too many images cannot be used.
    """
    index = relabel(data.index, model.card.classes)
    return _count_at(model, model.logits, data._replace(index=index), budgets)


def zero_shot_at(
    model: Matcher, data: Data, templates: Sequence[str], budgets: Sequence[int]
) -> list[BudgetResult]:
    """Accuracy at each budget of telling classes by the nearest of their names."""
    classes = torch.from_numpy(model.embed_classes(data.index.classes, templates))
    return _count_at(
        model, lambda batch: model.scale * model.vectors(batch) @ classes.T, data, budgets
    )


def pairs_of(model: Matcher, data: Data) -> Pairs:
    """The images of the data that have texts, as the model reads them; raises BadDataset."""
    assert model.card.tokenizer is not None
    most = model.model.config.text.max_length
    pairs = pair_up(data.index, read_captions(data.index), model.card.tokenizer, most)
    alone = [f"{key}: {reason}" for key, reason in pairs.alone.items()]
    if len(alone) > data.max_bad_fraction * len(data.index):
        raise BadDataset(
            f"{data.index.root}: {len(alone)} of {len(data.index)} images cannot be used "
            f"(max_bad_fraction is {data.max_bad_fraction:g}): {'; '.join(alone[:10])}"
        )
    return pairs


def retrieve_at(
    model: Matcher, data: Data, pairs: Pairs, budgets: Sequence[int]
) -> list[RetrievalResult]:
    """Recall in both directions at each budget, over all texts of all images."""
    assert pairs.index.captions is not None
    with torch.inference_mode(), model.precision():
        texts, owned = encode_captions(model.model, pairs.index.captions, model.device)
    numbers = {key: number for number, key in enumerate(pairs.index.keys)}
    index = replace(pairs.index, captions=None)
    bad = BadImages(index.root, index.label_of, data.max_bad_fraction)
    results = []
    for tokens in budgets:
        vectors: list[Tensor] = []
        images: list[int] = []

        def keep(batch: PackedBatch, vectors=vectors, images=images) -> None:
            vectors.append(model.vectors(batch))
            images.extend(numbers[key] for key in batch.keys)

        cost = _judge(model, index, tokens, bad, lambda packs: [*map(keep, packs)])
        if not images:
            raise BadDataset(f"no image of {index.root} can be read")
        sides = readable(torch.cat(vectors), texts.cpu(), owned, images)
        results.append(
            RetrievalResult(
                **cost, recalls=recalls(*sides), images=len(images), texts=len(sides[1])
            )
        )
    return results


def _count_at(
    model: ImageModel,
    logits: Callable[[PackedBatch], Tensor],
    data: Data,
    budgets: Sequence[int],
) -> list[BudgetResult]:
    index = data.index
    bad = BadImages(index.root, index.label_of, data.max_bad_fraction)
    results = []
    for tokens in budgets:
        found: list[Counts] = []

        def count(packs: Iterator[PackedBatch], found=found) -> None:
            found.append(classify(logits, packs, len(index.classes)))

        cost = _judge(model, index, tokens, bad, count)
        if not found[0].images:
            raise BadDataset(f"no image of {index.root} has a label that could be judged")
        results.append(BudgetResult(**cost, counts=found[0]))
    return results


def _judge(
    model: ImageModel,
    index: Index,
    tokens: int,
    bad: BadImages,
    use: Callable[[Iterator[PackedBatch]], object],
) -> dict:
    """Hand every image once to `use`; the fields of Cost."""
    card = model.card
    packs = evaluation_packs(
        index, card.model, resolution=card.resolution, tokens=tokens, max_tokens=PACK_TOKENS
    )
    flops = images = 0

    def batches() -> Iterator[PackedBatch]:
        nonlocal flops, images
        for pack in packs:
            flops += forward_flops(card.model, pack.batch.lengths)
            images += pack.batch.num_images
            bad.add(pack.bad)
            yield pack.batch

    began = time.perf_counter()
    use(batches())
    seconds = time.perf_counter() - began
    return {
        "max_tokens": tokens,
        "gflops_per_image": flops / max(1, images) / 1e9,
        "images_per_s": images / seconds,
        "unreadable": tuple(f"{key}: {reason}" for key, reason in bad.reasons.items()),
    }


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that hold something; raises ValueError where none does."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise ValueError(f"{path} holds no text")
    return found


def relabel(
    index: Index, classes: tuple[str, ...], label_map: Mapping[str, str] | None = None
) -> Index:
    """Number labels as the model does.

    label_map  from the data's classes to the model's; images of the others are not judged

    Raises BadDataset for a class that the model was not trained on.
    """
    names = [label_map.get(name, "") if label_map else name for name in index.classes]
    numbers = {name: i for i, name in enumerate(classes)}
    used = {names[label] for label in index.labels if label >= 0} - {""}
    foreign = sorted(used - set(classes))
    if foreign:
        raise BadDataset(
            f"{index.root} has classes that the model was not trained on: {foreign}; a --label-map "
            "says which of its classes they are"
        )
    table = np.array([numbers.get(name, -1) for name in names] + [-1])
    return replace(index, labels=table[index.labels], classes=classes)
