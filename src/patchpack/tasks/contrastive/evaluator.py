"""Do texts find their images, and images their texts?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from patchpack.batch import PackedBatch
from patchpack.data.annotations.captions import Captions, Pairs, attach_captions, read_captions
from patchpack.data.bad_images import BadImages
from patchpack.data.records import BadDataset
from patchpack.evaluation.run_data import Cost, Data, judged
from patchpack.metrics.retrieval import encode_captions, recalls, select_readable
from patchpack.tasks.contrastive.predictor import ImageTextPredictor


@dataclass(frozen=True, kw_only=True)
class RetrievalResult(Cost):
    """How well texts and images found each other at one token budget."""

    recalls: dict[str, float]
    images: int
    texts: int  # distinct ones


def pairs_of(model: ImageTextPredictor, data: Data) -> Pairs:
    """The images of the data that have texts, as the model reads them; raises BadDataset."""
    assert model.spec.tokenizer is not None
    most = model.model.config.text.max_length
    pairs = attach_captions(data.index, read_captions(data.index), model.spec.tokenizer, most)
    keys = dict.fromkeys(data.index.keys)  # of no class: a class may have no texts
    BadImages(data.index.root, keys, data.max_bad_fraction, pairs.without_text).check()
    return pairs


def retrieve_at(
    model: ImageTextPredictor, data: Data, pairs: Pairs, budgets: Sequence[int]
) -> list[RetrievalResult]:
    """Recall in both directions at each budget, over all texts of all images."""
    with torch.inference_mode(), model.precision():
        texts, owned = encode_captions(model.model, pairs.index.annotation(Captions), model.device)
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

        cost = judged(model, data, tokens, bad, lambda packs: [*map(keep, packs)])
        if not images:
            raise BadDataset(f"no image of {data.index.root} can be read")
        sides = select_readable(torch.cat(vectors), texts.cpu(), owned, images)
        results.append(
            RetrievalResult(
                **cost, recalls=recalls(*sides), images=len(images), texts=len(sides[1])
            )
        )
    return results
