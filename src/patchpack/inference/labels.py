"""The most probable labels of an image, as classifiers and image-text models predict them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from patchpack.printable import printable


@dataclass(frozen=True)
class LabelPrediction:
    """The most probable labels of one image, best first."""

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def label(self) -> str:
        return self.labels[0]

    @property
    def probability(self) -> float:
        return self.probabilities[0]

    def to_json(self) -> dict[str, Any]:
        pairs = zip(self.labels, self.probabilities, strict=True)
        return {"labels": [{"label": name, "probability": round(p, 6)} for name, p in pairs]}

    def to_text(self) -> str:
        pairs = zip(self.labels, self.probabilities, strict=True)
        return ", ".join(f"{printable(name)} {p:.1%}" for name, p in pairs)


def top_predictions(
    probabilities: Float[Tensor, "image label"], names: Sequence[str], top: int
) -> list[LabelPrediction]:
    """The `top` most probable labels of each image; raises ValueError for less than one."""
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    values, labels = probabilities.topk(min(top, len(names)), dim=1)
    return [
        LabelPrediction(tuple(names[i] for i in numbers), tuple(row))
        for row, numbers in zip(values.tolist(), labels.tolist(), strict=True)
    ]
