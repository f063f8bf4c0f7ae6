"""Bipartite matching of tokens and objects of the same image (Carion et al., arXiv 2005.12872,
§3.1): one token for each object, at the least total cost.

Axes: token, object, pair (a token and an object of the same image), match.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

PairCost = Callable[[Int[Tensor, " pair"], Int[Tensor, " pair"]], Float[Tensor, " pair"]]


@torch.no_grad()
def match(
    lengths: Sequence[int], counts: Sequence[int], pair_cost: PairCost, device: torch.device
) -> tuple[Int[Tensor, " match"], Int[Tensor, " match"]]:
    """Numbers of the matched tokens and of their objects, image by image.

    lengths    tokens per image
    counts     objects per image
    pair_cost  cost of pairs, given by numbers of tokens and of objects

    The costs of all pairs of the pack are computed at once and copied to the host once.
    """
    from scipy.optimize import linear_sum_assignment

    tokens, objects = all_pairs(lengths, counts)
    cost = pair_cost(tokens.to(device), objects.to(device))
    costs = cost.nan_to_num().cpu().double().numpy()  # a NaN shows in the loss
    matches: list[tuple[np.ndarray, np.ndarray]] = []
    pair = token = first = 0
    for n, m in zip(lengths, counts, strict=True):
        rows, columns = linear_sum_assignment(costs[pair : pair + n * m].reshape(n, m))
        matches.append((rows + token, columns + first))
        pair, token, first = pair + n * m, token + n, first + m
    matched, targets = (
        torch.from_numpy(np.concatenate(side)).long().to(device)
        for side in zip(*matches, strict=True)
    )
    return matched, targets


def all_pairs(
    lengths: Sequence[int], counts: Sequence[int]
) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    """Numbers of all tokens with those of all objects of the same image, token by token."""
    tokens, objects = [], []
    token = first = 0
    for n, m in zip(lengths, counts, strict=True):
        tokens.append(torch.arange(token, token + n).repeat_interleave(m))
        objects.append(torch.arange(first, first + m).repeat(n))
        token, first = token + n, first + m
    return torch.cat(tokens), torch.cat(objects)
