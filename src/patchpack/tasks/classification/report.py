"""Pictures of what a classifier of clips said, beside what is true, for `eval`."""

import numpy as np
from PIL import Image

from patchpack.data.images import BadImage
from patchpack.data.video.decode import decode_frames
from patchpack.evaluation.run_data import Data
from patchpack.tasks.classification.video_predictor import VideoClassificationPredictor
from patchpack.visualize.contact_sheet import EVAL_SIDE, Hit, draw_hits, evenly_spaced

FRAMES = 8  # of a clip


def draw_clips(
    model: VideoClassificationPredictor, data: Data, tokens: int, views: int
) -> Image.Image:
    """Clips as strips of frames, each below what was said of it and what is true."""
    index, rows = data.index, []
    clips = index.clips
    assert clips is not None
    for number in evenly_spaced(len(index)):
        key, length, rate = index.keys[number], int(clips.lengths[number]), clips.rates[number]
        frames = sorted({round(place) for place in np.linspace(0, length - 1, FRAMES)})
        try:
            pixels = list(decode_frames(index.path(number), frames, rate, key=key))
            (found,) = model.predict([index.path(number)], max_tokens=tokens, views=views, top=1)
        except BadImage:
            continue
        truth = index.label_of[key]
        told = f"{key}: {found.label} {found.probability:.0%}"
        right = "" if truth in (None, found.label) else f", but it is {truth}"
        titles = (f"{frame / rate:.2f} s" for frame in frames)
        hits = [Hit(image, title) for image, title in zip(pixels, titles, strict=True)]
        rows.append((told + right, hits))
    return draw_hits(rows, EVAL_SIDE // 2)
