"""A trained image-text model: embeddings of images and texts in one space, zero-shot labels.

    model = load("runs/emoji")
    model.embed(["a.png"]) @ model.embed_texts(["a red heart"]).T        cosine similarities
    model.predict(["a.png"], ["cat", "dog"], templates=["a photo of a {}"])

Axes: image, text, label, dim.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchpack.batch import PackedBatch
from patchpack.data.pack import AnyImage
from patchpack.data.tokenizer import tokenize_and_pack
from patchpack.inference.labels import LabelPrediction, top_predictions
from patchpack.inference.predictor import Predictor, Unreadable, finite
from patchpack.tasks.backbone_module import check_unique_class_names

TEXTS_PER_BATCH = 1024
PLAIN = ("{}",)  # the prompt template of a bare class name


class ImageTextPredictor(Predictor):
    """An image-text model on one device; all embeddings have length 1."""

    description = "an image-text model"

    @property
    def dim(self) -> int:
        return self.model.config.dim

    @property
    def scale(self) -> float:
        """The learned logit scale."""
        return float(self.model.scale.detach())

    @torch.inference_mode()
    def vectors(self, batch: PackedBatch) -> Float[Tensor, "image dim"]:
        with self.precision():
            return finite(self.model(batch.to(self.device)).float().cpu(), batch)

    def embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "text dim"]:
        """The embedding of each text, float32; raises ValueError for a text without a token."""
        if isinstance(texts, str):
            raise ValueError("this takes a list of texts; put a single one in a list")
        batches = [
            self._encode(texts[start : start + TEXTS_PER_BATCH])
            for start in range(0, len(texts), TEXTS_PER_BATCH)
        ]
        return torch.cat(batches).numpy() if batches else np.empty((0, self.dim), np.float32)

    @torch.inference_mode()
    def _encode(self, texts: Sequence[str]) -> Float[Tensor, "text dim"]:
        assert self.spec.tokenizer is not None
        text = self.model.config.text
        packed = tokenize_and_pack(
            texts, self.spec.tokenizer, max_length=text.max_length, vocab_size=text.vocab_size
        )
        with self.precision():
            return self.model.encode_texts(packed.to(self.device)).float().cpu()

    def embed_classes(
        self, names: Sequence[str], templates: Sequence[str] = PLAIN
    ) -> Float[np.ndarray, "label dim"]:
        """The embedding of each class: the mean over its name in each template, of length 1.

        Radford et al. (arXiv 2103.00020), §3.1.4. Raises ValueError for a template without "{}",
        and for names that repeat.
        """
        check_templates(templates)
        check_unique_class_names(names)
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
        unreadable: Unreadable = None,
    ) -> list[LabelPrediction]:
        """Zero-shot classification: the `top` most probable of these class names for each image.

        Raises BadImage for a file that cannot be read, unless `unreadable` collects it, and
        ValueError for any other wrong argument.
        """
        classes = torch.from_numpy(self.embed_classes(names, templates))

        def logits_of(
            images: Sequence[AnyImage], tokens: int | None, unreadable: Unreadable
        ) -> Tensor:
            vectors = self.embed(images, max_tokens=tokens, unreadable=unreadable)
            return self.scale * torch.from_numpy(vectors) @ classes.T

        logits = self.at_operating_point(logits_of, images, max_tokens, unreadable)
        return top_predictions(self.probabilities(logits), names, top)


def check_templates(templates: Sequence[str]) -> None:
    """Raise ValueError where there is no template, or one without {} for the class name."""
    wrong = [template for template in templates if "{}" not in template]
    if wrong or not templates:
        raise ValueError(f"a template needs {{}} in place of the class name: {wrong or 'no lines'}")
