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
from patchpack.data.video.frame_sampling import views_of
from patchpack.data.video.pack import AnyClip, check_clips, to_clip_patches
from patchpack.inference.predictor import in_packs
from patchpack.tasks.classification.predictor import Prediction, Predictor, likeliest


class ClipPredictor(Predictor):
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
        places = views_of(views)

        def logits_of(some: Sequence, tokens: int | None) -> Float[Tensor, "clip label"]:
            rows = [self._at(some, tokens, place) for place in places]
            return torch.stack(rows).mean(0)

        logits = self.as_chosen(logits_of, clips, max_tokens)
        return likeliest(self.probabilities(logits), self.card.classes, top)

    def _at(
        self, clips: Sequence[AnyClip], tokens: int | None, place: float
    ) -> Float[Tensor, "clip label"]:
        found = [self.logits(batch) for batch in self.packs(clips, tokens, place=place)]
        return torch.cat(found) if found else torch.empty(0, len(self.card.classes))

    def packs(  # pyrefly: ignore
        self,
        clips: Sequence[AnyClip],
        max_tokens: int | None,
        resolution: Resolution | None = None,
        place: float = 0.5,
    ) -> Iterator[PackedBatch]:
        check_clips(clips)
        tokens, showing = self.tokens_of(max_tokens), self.card.showing(place)
        assert showing is not None
        rule = resolution or self.card.resolution.at(showing.room(tokens))
        reach = self.card.model.positions.max_side
        cut = (
            to_clip_patches(clip, f"clip {i}", showing, tokens, rule, reach)
            for i, clip in enumerate(clips)
        )
        return (collate_clips(group, showing.tubelets) for group in in_packs(cut))
