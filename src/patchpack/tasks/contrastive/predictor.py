"""Trained towers of images and texts: what is near what.

model = load("runs/emoji")
model.embed(["a.png"]) @ model.embed_texts(["a red heart"]).T        cosines
model.predict(["a.png"], ["cat", "dog"], templates=["a photo of a {}"])
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchpack.batch import PackedBatch
from patchpack.data.pack import AnyImage
from patchpack.data.tokenizer import tokenize_and_pack
from patchpack.inference.predictor import Predictor
from patchpack.tasks.classification.predictor import Prediction, top_predictions

GROUP = 1024  # texts encoded at a time
PLAIN = ("{}",)  # a class by its bare name


class ImageTextPredictor(Predictor):
    """Two towers ready for use, on one device; all vectors have length 1."""

    kind, kinds = "a model of images and texts", "models of images and texts"

    @property
    def dim(self) -> int:
        return self.model.config.dim

    @torch.inference_mode()
    def vectors(self, batch: PackedBatch) -> Float[Tensor, "image dim"]:
        with self.precision():
            return self.model(batch.to(self.device)).float().cpu()

    def embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "text dim"]:
        """The vector of each text, float32; raises ValueError for one that has no token."""
        if isinstance(texts, str):
            raise ValueError("this takes a list of texts; put a single one in a list")
        found = [
            self._encode(texts[start : start + GROUP]) for start in range(0, len(texts), GROUP)
        ]
        return torch.cat(found).numpy() if found else np.empty((0, self.dim), np.float32)

    @torch.inference_mode()
    def _encode(self, texts: Sequence[str]) -> Float[Tensor, "text dim"]:
        most = self.model.config.text.max_length
        assert self.spec.tokenizer is not None
        packed = tokenize_and_pack(texts, self.spec.tokenizer, most)
        with self.precision():
            return self.model.encode_texts(packed.to(self.device)).float().cpu()

    def embed_classes(
        self, names: Sequence[str], templates: Sequence[str] = PLAIN
    ) -> Float[np.ndarray, "label dim"]:
        """The vector of each class: the mean of its name in each template, of length 1 again.

        Radford et al. (arXiv 2103.00020), §3.1.4. Raises ValueError for a template without "{}".
        """
        check_templates(templates)
        if not names:
            raise ValueError("no classes were given")
        texts = [template.replace("{}", name) for name in names for template in templates]
        means = self.embed_texts(texts).reshape(len(names), len(templates), -1).mean(1)
        return means / np.linalg.norm(means, axis=1, keepdims=True).clip(1e-12)

    def predict(
        self,
        images: Sequence[AnyImage],
        names: Sequence[str],
        *,
        templates: Sequence[str] = PLAIN,
        max_tokens: int | None = None,
        top: int = 5,
    ) -> list[Prediction]:
        """The `top` likeliest of these classes for each image, none of which was trained on.

        Raises BadImage for a file that cannot be read, ValueError for anything else wrong.
        """
        classes = torch.from_numpy(self.embed_classes(names, templates))

        def logits_of(some: Sequence[AnyImage], tokens: int | None) -> Tensor:
            vectors = torch.from_numpy(self.embed(some, max_tokens=tokens))
            return self.scale * vectors @ classes.T

        return top_predictions(
            self.probabilities(self.as_chosen(logits_of, images, max_tokens)), names, top
        )

    @property
    def scale(self) -> float:
        """Of the logits, as learned."""
        return float(self.model.scale.detach())


def check_templates(templates: Sequence[str]) -> None:
    """Raise ValueError where there is none, or one has no place for a name."""
    wrong = [template for template in templates if "{}" not in template]
    if wrong or not templates:
        raise ValueError(f"a template needs a {{}} where the class goes, not {wrong or 'nothing'}")
