"""A trained classifier of clips as a function from videos to labels or vectors.

    model = load("runs/motions")
    model.predict(["a.mp4", frames], max_tokens=1024, views=4)

`max_tokens` is of a clip, all its frames together. Several views of a clip begin at places evenly
spread in time, and their logits are averaged (ViViT, Arnab et al., arXiv 2103.15691, §4.1).
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from patchpack.batch import PackedBatch, collate_clips
from patchpack.data.packing.resolution import Resolution
from patchpack.data.video.frame_sampling import view_positions
from patchpack.data.video.pack import AnyClip, check_clips, to_clip_patches
from patchpack.inference.predictor import in_packs
from patchpack.tasks.classification.predictor import (
    ClassificationPredictor,
    Prediction,
    top_predictions,
)


class VideoClassificationPredictor(ClassificationPredictor):
    """A classifier of clips ready for use, on one device."""

    kind, kinds = "a classifier of clips", "classifiers of clips"

    def predict(  # pyrefly: ignore
        self,
        clips: Sequence[AnyClip],
        *,
        max_tokens: int | None = None,
        top: int = 5,
        views: int = 1,
    ) -> list[Prediction]:
        """The `top` likeliest labels of each clip, in the order given.

        clips  videos, folders of frames, or uint8 arrays [t, h, w, 3]

        Raises BadImage for a file that cannot be read, ValueError for anything else wrong.
        """
        places = view_positions(views)

        def logits_of(some: Sequence, tokens: int | None) -> Float[Tensor, "clip label"]:
            rows = [self._at(some, tokens, start_fraction) for start_fraction in places]
            return torch.stack(rows).mean(0)

        logits = self.as_chosen(logits_of, clips, max_tokens)
        return top_predictions(self.probabilities(logits), self.spec.classes, top)

    def _at(
        self, clips: Sequence[AnyClip], tokens: int | None, start_fraction: float
    ) -> Float[Tensor, "clip label"]:
        found = [
            self.logits(batch) for batch in self.packs(clips, tokens, start_fraction=start_fraction)
        ]
        return torch.cat(found) if found else torch.empty(0, len(self.spec.classes))

    def packs(  # pyrefly: ignore
        self,
        clips: Sequence[AnyClip],
        max_tokens: int | None,
        resolution: Resolution | None = None,
        start_fraction: float = 0.5,
    ) -> Iterator[PackedBatch]:
        check_clips(clips)
        tokens, clip_sampling = self.tokens_of(max_tokens), self.spec.clip_sampling(start_fraction)
        assert clip_sampling is not None
        rule = resolution or self.spec.resolution.for_evaluation(
            clip_sampling.patches_for_tokens(tokens)
        )
        reach = self.spec.model.positions.max_side
        cut = (
            to_clip_patches(clip, f"clip {i}", clip_sampling, tokens, rule, reach)
            for i, clip in enumerate(clips)
        )
        return (collate_clips(group, clip_sampling.tubelets) for group in in_packs(cut))
