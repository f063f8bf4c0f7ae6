"""From arrays of frames to a PackedClips.

    pack_clips([frames [t, h, w, 3], …], [Tubelet(2, 16, 16)], max_tokens=1024)

Clips keep their length and aspect ratio; their frames are resized to whole tubelets, and to fewer
pixels where a clip would have more than `max_tokens`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from patchpack.batch import PackedClips, Tubelet, collate_clips
from patchpack.data.images import resize
from patchpack.data.resolution import Native, Resolution
from patchpack.data.tubelets import Frames, cut_tubelets, tubelet_grid


def pack_clips(
    clips: Sequence[Frames | Tensor],
    tubelets: Sequence[Tubelet],
    *,
    max_tokens: int | None = None,
    resolution: Resolution | None = None,
) -> PackedClips:
    """Pack clips of uint8 RGB frames; ones shorter than a tubelet repeat their last frame.

    max_tokens  most tokens of one clip, of all shapes of tubelets together
    resolution  another rule for the sizes of frames (native when None)

    Raises ValueError for anything that is no clip, and where not one tubelet a time fits.
    """
    if not tubelets:
        raise ValueError("no tubelets were given")
    if not len(clips):
        raise ValueError("there are no clips to pack")
    rule = resolution or Native()
    return collate_clips(
        [
            cut_tubelets(
                _resized(_frames(clip, f"clip {i}"), tubelets, max_tokens, rule, f"clip {i}"),
                tubelets,
                key=f"clip {i}",
            )
            for i, clip in enumerate(clips)
        ]
    )


def _frames(clip: Frames | Tensor, name: str) -> Frames:
    frames = clip.cpu().numpy() if isinstance(clip, Tensor) else np.asarray(clip)
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape or frames.dtype != np.uint8:
        raise ValueError(
            f"{name}: frames must be uint8 [time, height, width, 3], not {frames.dtype} "
            f"{list(frames.shape)}"
        )
    return frames


def _resized(
    frames: Frames, shapes: Sequence[Tubelet], most: int | None, rule: Resolution, name: str
) -> Frames:
    """Frames at a size that the first shape fills, with at most so many tokens of all shapes."""
    first = shapes[0]
    if first.height != first.width:
        raise ValueError(f"the first tubelet must be square, not {first.height} x {first.width}")
    short = first.frames - len(frames)
    if short > 0:
        frames = np.concatenate([frames, np.repeat(frames[-1:], short, 0)])
    times = len(frames) // first.frames
    room = (most or torch.iinfo(torch.int32).max) // times
    while room >= 1:
        ((h, w),) = rule.grids(
            np.array([frames.shape[1]]), np.array([frames.shape[2]]), patch_size=first.height,
            max_tokens=room, rng=np.random.default_rng(0), max_side=10**6,
        )  # fmt: skip
        size = int(h) * first.height, int(w) * first.width
        count = sum(int(np.prod(tubelet_grid((len(frames), *size), shape))) for shape in shapes)
        if most is None or count <= most:
            return np.stack([resize(frame, size) for frame in frames])
        room = min(room - 1, int(h) * int(w) - 1)
    raise ValueError(f"{name}: {len(frames)} frames have no room in {most} tokens")
