"""A trained video classifier: from clips to labels with probabilities.

    model = load("runs/motions")
    model.predict(["a.mp4", frames], max_tokens=1024, views=4)

`max_tokens` is the budget of a clip, all its frames together. Views start at evenly spaced
positions of the clip, and their logits are averaged (ViViT, Arnab et al., arXiv 2103.15691, §4.1).
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from patchpack.batch import ClipPatches, PackedBatch, collate_clips
from patchpack.data.packing.resolution import Resolution
from patchpack.data.video.frame_sampling import view_positions
from patchpack.data.video.pack import AnyClip, check_clips, to_clip_patches
from patchpack.inference.labels import LabelPrediction, top_predictions
from patchpack.inference.predictor import Unreadable, in_packs, readable, skip_unreadable
from patchpack.tasks.classification.predictor import ClassificationPredictor


class VideoClassificationPredictor(ClassificationPredictor):
    """A video classifier on one device."""

    description = "a video classifier"

    def predict(  # pyrefly: ignore
        self,
        clips: Sequence[AnyClip],
        *,
        max_tokens: int | None = None,
        top: int = 5,
        views: int = 1,
        unreadable: Unreadable = None,
    ) -> list[LabelPrediction]:
        """The `top` most probable labels of each clip, in the order given.

        clips  videos, folders of frames, or uint8 arrays [t, h, w, 3]

        Raises BadImage for a file that cannot be read, unless `unreadable` collects it, and
        ValueError for any other wrong argument.
        """
        positions = view_positions(views)

        def logits_of(
            clips: Sequence[AnyClip], tokens: int | None, unreadable: Unreadable
        ) -> Float[Tensor, "clip label"]:
            first, *rest = positions
            rows = [self._logits_at(clips, tokens, first, unreadable)]
            if rest:
                clips = readable(clips, unreadable)
            rows += [self._logits_at(clips, tokens, position, None) for position in rest]
            return torch.stack(rows).mean(0)

        logits = self.at_operating_point(logits_of, clips, max_tokens, unreadable)
        return top_predictions(self.probabilities(logits), self.classes, top)

    def _logits_at(
        self,
        clips: Sequence[AnyClip],
        tokens: int | None,
        start_fraction: float,
        unreadable: Unreadable,
    ) -> Float[Tensor, "clip label"]:
        packs = self.packs(clips, tokens, start_fraction=start_fraction, unreadable=unreadable)
        rows = [self.logits(batch) for batch in packs]
        return torch.cat(rows) if rows else torch.empty(0, len(self.classes))

    def packs(  # pyrefly: ignore
        self,
        clips: Sequence[AnyClip],
        max_tokens: int | None,
        *,
        resolution: Resolution | None = None,
        unreadable: Unreadable = None,
        start_fraction: float = 0.5,
    ) -> Iterator[PackedBatch]:
        check_clips(clips)
        tokens, sampling = (
            self.tokens_or_default(max_tokens),
            self.spec.clip_sampling(start_fraction),
        )
        assert sampling is not None
        per_frame = sampling.patches_for_tokens(tokens)
        rule = resolution or self.spec.resolution.for_evaluation(per_frame)

        def prepare(clip: AnyClip, key: str) -> ClipPatches:
            return to_clip_patches(clip, key, self.spec.input, sampling, tokens, rule)

        prepared = skip_unreadable(prepare, clips, unreadable)
        return (collate_clips(group, sampling.tubelets) for group in in_packs(prepared))
