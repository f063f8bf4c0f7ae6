"""A run's best weights on images they were not trained on, at several token budgets.

A classifier is asked for the label; two towers, which texts belong to which images, and which name
of a class is nearest to an image:

    data = data_of(run, split="test")
    classify_at(classifier, data, budgets=(64, 256))
    retrieve_at(towers, data, pairs_of(towers, data), budgets)
    zero_shot_at(towers, data, templates, budgets)

Every image is seen once at each budget, those that cannot be read are named.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from patchpack.batch import PackedBatch
from patchpack.data.alter import Alteration
from patchpack.data.bad_images import BadImages
from patchpack.data.dropping import Dropping
from patchpack.data.index import Index, build_index
from patchpack.data.layouts import BadDataset
from patchpack.data.pairs import Pairs, pair_up, read_captions
from patchpack.data.resolution import Resolution
from patchpack.evaluate.classification import Counts, classify
from patchpack.evaluate.retrieval import encode_captions, readable, recalls
from patchpack.model.navit import forward_flops
from patchpack.packs import evaluation_packs
from patchpack.run import load_config
from patchpack.serve.images import PACK_TOKENS, ImageModel
from patchpack.serve.matcher import Matcher
from patchpack.serve.predictor import Predictor
from patchpack.train.loop import TrainingError


@dataclass(frozen=True, eq=False)
class Data:
    """Images to judge with."""

    index: Index
    max_bad_fraction: float  # of them that may be unreadable

    def bad_images(self) -> BadImages:
        """Those that cannot be read: none yet."""
        return BadImages(self.index.root, self.index.label_of, self.max_bad_fraction)


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


def packed(
    model: ImageModel,
    data: Data,
    bad: BadImages,
    *,
    tokens: int,
    resolution: Resolution | None = None,
    alter: Alteration | None = None,
    dropping: Dropping | None = None,
) -> Iterator[PackedBatch]:
    """Every image of the data once, as the model is shown it; `bad` learns which are not.

    resolution  the model's own, when None
    """
    packs = evaluation_packs(
        replace(data.index, captions=None),
        model.card.model,
        resolution=resolution or model.card.resolution,
        tokens=tokens,
        max_tokens=PACK_TOKENS,
        alter=alter,
        dropping=dropping,
    )
    for pack in packs:
        bad.add(pack.bad)
        yield pack.batch


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
    return _count_at(model, model.logits, replace(data, index=index), budgets)


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
    keys = dict.fromkeys(data.index.keys)  # of no class: a class may have no texts
    BadImages(data.index.root, keys, data.max_bad_fraction, pairs.alone).check()
    return pairs


def retrieve_at(
    model: Matcher, data: Data, pairs: Pairs, budgets: Sequence[int]
) -> list[RetrievalResult]:
    """Recall in both directions at each budget, over all texts of all images."""
    assert pairs.index.captions is not None
    with torch.inference_mode(), model.precision():
        texts, owned = encode_captions(model.model, pairs.index.captions, model.device)
    numbers = {key: number for number, key in enumerate(pairs.index.keys)}
    data = replace(data, index=pairs.index)
    bad = data.bad_images()
    results = []
    for tokens in budgets:
        vectors: list[Tensor] = []
        images: list[int] = []

        def keep(batch: PackedBatch, vectors=vectors, images=images) -> None:
            vectors.append(model.vectors(batch))
            images.extend(numbers[key] for key in batch.keys)

        cost = _judge(model, data, tokens, bad, lambda packs: [*map(keep, packs)])
        if not images:
            raise BadDataset(f"no image of {data.index.root} can be read")
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
    index, bad = data.index, data.bad_images()
    results = []
    for tokens in budgets:
        found: list[Counts] = []

        def count(packs: Iterator[PackedBatch], found=found) -> None:
            found.append(classify(logits, packs, len(index.classes)))

        cost = _judge(model, data, tokens, bad, count)
        if not found[0].images:
            raise BadDataset(f"no image of {index.root} has a label that could be judged")
        results.append(BudgetResult(**cost, counts=found[0]))
    return results


def _judge(
    model: ImageModel,
    data: Data,
    tokens: int,
    bad: BadImages,
    use: Callable[[Iterator[PackedBatch]], object],
) -> dict:
    """Hand every image once to `use`; the fields of Cost."""
    flops = images = 0

    def counted() -> Iterator[PackedBatch]:
        nonlocal flops, images
        for batch in packed(model, data, bad, tokens=tokens):
            flops += forward_flops(model.card.model, batch.lengths)
            images += batch.num_images
            yield batch

    began = time.perf_counter()
    use(counted())
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
