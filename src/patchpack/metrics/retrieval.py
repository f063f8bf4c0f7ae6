"""How well texts find their images, and images their texts: recall at k.

An image may have several texts, and a text that several images share is one text: whichever of the
right ones comes first counts. What is as near as the right one counts as nearer.

Axes: image, text, pair (an image and one of its texts), dim.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patchpack.batch import PackedTexts, pack_texts
from patchpack.data.annotations.captions import Captions

RECALL_AT = (1, 5, 10)
TEXT_TOKENS = 16_384  # encoded at a time
CELLS = 1 << 24  # of the matrix of scores at a time


def recalls(
    images: Float[Tensor, "image dim"],
    texts: Float[Tensor, "text dim"],
    pairs: Int[Tensor, "pair 2"],
    at: Sequence[int] = RECALL_AT,
) -> dict[str, float]:
    """Shares of images with a right text among the k nearest, of texts with a right image, the
    mean of both, and `mean_recall`, their mean over k.

    pairs  (image, text) of all that belong together

    Recall@k of retrieval as in Karpathy & Fei-Fei (arXiv 1412.2306), §4.2.
    """
    to_text = best_ranks(images, texts, pairs)
    to_image = best_ranks(texts, images, pairs.flip(1))
    found: dict[str, float] = {}
    for name, ranks in (("image_to_text", to_text), ("text_to_image", to_image)):
        for k in at:
            found[f"{name}@{k}"] = float((ranks < k).double().mean()) if len(ranks) else 0.0
    for k in at:
        found[f"recall@{k}"] = 0.5 * (found[f"image_to_text@{k}"] + found[f"text_to_image@{k}"])
    found["mean_recall"] = sum(found[f"recall@{k}"] for k in at) / len(at)
    return found


def best_ranks(
    queries: Float[Tensor, "query dim"],
    found: Float[Tensor, "item dim"],
    pairs: Int[Tensor, "pair 2"],
) -> Int[Tensor, " query"]:
    """How many wrong items are as near to each query as the nearest right one, or nearer."""
    ranks = []
    rows = max(1, CELLS // max(1, len(found)))
    for start in range(0, len(queries), rows):
        scores = queries[start : start + rows] @ found.T
        right = _right(pairs, start, scores)
        best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        ranks.append(((scores >= best) & ~right).sum(1))
    return torch.cat(ranks) if ranks else torch.empty(0, dtype=torch.int64)


def _right(
    pairs: Int[Tensor, "pair 2"], start: int, scores: Float[Tensor, "row item"]
) -> Bool[Tensor, "row item"]:
    """Which cells of the scores belong together."""
    inside = (pairs[:, 0] >= start) & (pairs[:, 0] < start + len(scores))
    right = torch.zeros_like(scores, dtype=torch.bool)
    right[pairs[inside, 0] - start, pairs[inside, 1]] = True
    return right


def encode_captions(
    module: Any, captions: Captions, device: torch.device
) -> tuple[Float[Tensor, "text dim"], Tensor]:
    """The vector of each distinct text, and the pairs of (image, text)."""
    numbers: dict[int, int] = {}
    texts: list[Tensor] = []
    pairs = []
    for caption, image in enumerate(captions.image_ids):
        number = numbers.setdefault(int(captions.text_ids[caption]), len(texts))
        if number == len(texts):
            texts.append(torch.from_numpy(captions.text(caption)))
        pairs.append((int(image), number))
    vectors = [module.encode_texts(part.to(device)) for part in _portions(texts)]
    return torch.cat(vectors), torch.tensor(pairs)


def _portions(texts: list[Tensor]) -> list[PackedTexts]:
    """Texts in packs of at most TEXT_TOKENS, in the order given."""
    lengths = np.array([len(text) for text in texts])
    pack = np.cumsum(lengths) // TEXT_TOKENS
    return [
        pack_texts([texts[i] for i in np.flatnonzero(pack == number)]) for number in np.unique(pack)
    ]


def select_readable(
    vectors: Float[Tensor, "image dim"], texts: Tensor, pairs: Tensor, images: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """What `recalls` takes, of the images that could be read, and of the texts that have one."""
    place = {image: row for row, image in enumerate(images)}
    kept = [(place[i], t) for i, t in pairs.tolist() if i in place]
    used = sorted({text for _, text in kept})
    number = {text: row for row, text in enumerate(used)}
    found = torch.tensor([(image, number[text]) for image, text in kept])
    return vectors.float(), texts[used].float(), found.to(vectors.device)
