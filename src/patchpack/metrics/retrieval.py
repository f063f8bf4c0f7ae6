"""Image-text retrieval metrics: recall@k in both directions.

An image may have several texts, and several images may share one text. The highest-ranked match
counts. Ties count against the model: a wrong item with the same score ranks before the match.

Axes: image, text, pair (an image and one of its texts), dim.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patchpack.batch import PackedTexts, pack_texts
from patchpack.data.annotations.captions import Captions
from patchpack.metrics.undefined import defined, ratio

RECALL_AT = (1, 5, 10)
TEXT_TOKENS = 16_384  # tokens per pack of texts
CELLS = 1 << 24  # cells of the score matrix per block


def recalls(
    images: Float[Tensor, "image dim"],
    texts: Float[Tensor, "text dim"],
    pairs: Int[Tensor, "pair 2"],
    at: Sequence[int] = RECALL_AT,
) -> dict[str, float]:
    """Return recall@k for image-to-text and text-to-image retrieval.

    images, texts  vectors, scored by their dot product
    pairs          (image, text) indices of all matches
    at             values of k

    Recall@k is the share of queries with a match among the k highest scores, as in Karpathy &
    Fei-Fei (arXiv 1412.2306), §4.2. The keys are `image_to_text@k`, `text_to_image@k`, `recall@k`
    (their mean) and `mean_recall` (the mean of `recall@k` over k). All are in [0, 1]; higher is
    better.

    A query with fewer than k wrong items cannot miss at k, and is left out. Values are NaN where no
    query is left, and for vectors that are not finite; `mean_recall` is over the defined ones.
    """
    results: dict[str, float] = {}
    finite = bool(images.isfinite().all() and texts.isfinite().all())
    for name, sides in (
        ("image_to_text", (images, texts, pairs)),
        ("text_to_image", (texts, images, pairs.flip(1))),
    ):
        ranks, wrong = best_ranks(*sides), wrong_items(len(sides[0]), len(sides[1]), sides[2])
        for k in at:
            able = wrong >= k
            hits = float((ranks[able] < k).sum()) if finite else math.nan
            results[f"{name}@{k}"] = ratio(hits, int(able.sum()))
    for k in at:
        both = results[f"image_to_text@{k}"] + results[f"text_to_image@{k}"]
        results[f"recall@{k}"] = 0.5 * both
    values = [results[f"recall@{k}"] for k in at]
    values = [value for value in values if defined(value)]
    results["mean_recall"] = ratio(sum(values), len(values))
    return results


def wrong_items(queries: int, items: int, pairs: Int[Tensor, "pair 2"]) -> Int[Tensor, " query"]:
    """Return the number of items that do not match each query; `pairs` as in `best_ranks`."""
    distinct = pairs.cpu().unique(dim=0) if len(pairs) else pairs.cpu()
    return items - torch.bincount(distinct[:, 0], minlength=queries)


def best_ranks(
    queries: Float[Tensor, "query dim"],
    items: Float[Tensor, "item dim"],
    pairs: Int[Tensor, "pair 2"],
) -> Int[Tensor, " query"]:
    """Return the 0-based rank of the best match of each query; lower is better.

    pairs  (query, item) indices of all matches

    The rank is the number of wrong items that score at least as high as the best match; items
    whose score is NaN count as higher.
    """
    if not len(items):
        return torch.zeros(len(queries), dtype=torch.int64)
    ranks = []
    rows = max(1, CELLS // max(1, len(items)))
    for start in range(0, len(queries), rows):
        scores = queries[start : start + rows] @ items.T
        match = _matches(pairs, start, scores)
        best = scores.masked_fill(~match, -torch.inf).amax(1, keepdim=True)
        ranks.append((~(scores < best) & ~match).sum(1))
    return torch.cat(ranks).cpu() if ranks else torch.empty(0, dtype=torch.int64)


def _matches(
    pairs: Int[Tensor, "pair 2"], start: int, scores: Float[Tensor, "row item"]
) -> Bool[Tensor, "row item"]:
    """Return a mask of the matching cells of a block of scores whose first query is `start`."""
    inside = (pairs[:, 0] >= start) & (pairs[:, 0] < start + len(scores))
    match = torch.zeros_like(scores, dtype=torch.bool)
    match[pairs[inside, 0] - start, pairs[inside, 1]] = True
    return match


def encode_captions(
    module: Any, captions: Captions, device: torch.device
) -> tuple[Float[Tensor, "text dim"], Tensor]:
    """Return the vector of each distinct text and the (image, text) pairs [pair, 2].

    module  has `encode_texts`, from packed texts to vectors [text, dim]
    """
    rows: dict[int, int] = {}  # text id to row
    texts: list[Tensor] = []
    pairs = []
    for caption, image in enumerate(captions.image_ids):
        row = rows.setdefault(int(captions.text_ids[caption]), len(texts))
        if row == len(texts):
            texts.append(torch.from_numpy(captions.text(caption)))
        pairs.append((int(image), row))
    vectors = [module.encode_texts(pack.to(device)) for pack in _pack_in_order(texts)]
    return torch.cat(vectors), torch.tensor(pairs)


def _pack_in_order(texts: list[Tensor]) -> list[PackedTexts]:
    """Pack texts in the given order, about TEXT_TOKENS per pack."""
    lengths = np.array([len(text) for text in texts])
    pack = np.cumsum(lengths) // TEXT_TOKENS
    return [
        pack_texts([texts[i] for i in np.flatnonzero(pack == number)]) for number in np.unique(pack)
    ]


def select_readable(
    vectors: Float[Tensor, "image dim"], texts: Tensor, pairs: Tensor, images: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the arguments of `recalls` without unreadable images and texts that only they have.

    images  index of the image of each row of `vectors`
    texts   vectors of all texts [text, dim]
    pairs   (image, text) indices into the full set [pair, 2]
    """
    image_row = {image: row for row, image in enumerate(images)}
    kept = [(image_row[i], t) for i, t in pairs.tolist() if i in image_row]
    used = sorted({text for _, text in kept})
    text_row = {text: row for row, text in enumerate(used)}
    kept_pairs = torch.tensor([(image, text_row[text]) for image, text in kept])
    return vectors.float(), texts[used].float(), kept_pairs.to(vectors.device)
