"""Pack clips, in memory or on disk, into one PackedClips.

    pack_clips(["a.mp4", frames [t, h, w, 3], …], [Tubelet(2, 16, 16)], max_tokens=1024)

Clips keep their length and aspect ratio. Frames are resized to whole tubelets, and to fewer pixels
if a clip would exceed `max_tokens`.
"""

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from patchpack.batch import ClipPatches, PackedClips, Tubelet, collate_clips
from patchpack.data.config import InputSpec
from patchpack.data.images import resize
from patchpack.data.packing.resolution import MAX_SIDE, Native, Resolution
from patchpack.data.reading import DEFAULT_READING, ReadingConfig
from patchpack.data.video.decode import FOLDER_RATE, VideoHeader, decode_frames, read_header
from patchpack.data.video.frame_sampling import (
    ClipSampling,
    FrameSampling,
    StridedFrames,
    frame_numbers,
)
from patchpack.data.video.tubelets import Frames, cut_tubelets

AnyClip = np.ndarray | Tensor | str | os.PathLike


def pack_clips(
    clips: Sequence[AnyClip],
    tubelets: Sequence[Tubelet],
    *,
    max_tokens: int | None = None,
    frames: FrameSampling | None = None,
    resolution: Resolution | None = None,
    max_side: int = MAX_SIDE,
) -> PackedClips:
    """Pack clips of any lengths and sizes, in the order given.

    clips       uint8 arrays or tensors [t, h, w, 3], videos, or folders of frames
    max_tokens  maximum tokens per clip, over all shapes of tubelets
    frames      rule that samples frames (None: all frames)
    resolution  resize rule for frames (None: Native)
    max_side    maximum side of a grid in patches, which the model's positions support

    Raises ValueError for other types of clips and if a clip does not fit in `max_tokens`, and its
    subclass BadImage for unreadable files.
    """
    if not tubelets:
        raise ValueError("tubelets must not be empty")
    check_clips(clips)
    limit, rule = max_tokens or torch.iinfo(torch.int32).max, resolution or Native()
    input = InputSpec(patch_size=tubelets[0].height, max_side=max_side, tubelets=tuple(tubelets))
    patches = []
    for number, clip in enumerate(clips):
        name = f"clip {number}"
        clip_sampling = ClipSampling(
            frames or StridedFrames(step=1, frames=_length(clip, name)), tuple(tubelets)
        )
        patches.append(to_clip_patches(clip, name, input, clip_sampling, limit, rule))
    return collate_clips(patches, tubelets)


def check_clips(clips: object) -> None:
    """Raise ValueError for a single clip; its characters or frames would be read as clips."""
    if isinstance(clips, AnyClip):
        raise ValueError("expected a list of clips; put a single clip in a list")


def to_clip_patches(
    clip: AnyClip,
    name: str,
    input: InputSpec,
    clip_sampling: ClipSampling,
    max_tokens: int,
    resolution: Resolution,
) -> ClipPatches:
    """Sample the frames of a clip, resize them and cut them into at most `max_tokens` tubelets.

    name        the clip's key, also in errors
    resolution  resize rule for frames, bounded by the patches per frame that `max_tokens` allows

    Raises ValueError if the start fraction is None, which only training supports.
    """
    if clip_sampling.start_fraction is None:
        raise ValueError("ClipSampling.start_fraction must be set to pack a clip")
    first = clip_sampling.tubelets[0]
    if first.height != first.width:
        raise ValueError(f"the first tubelet must be square, not {first.height} x {first.width}")
    header = _header(clip, name, input.reading)
    counts, steps = clip_sampling.frames.count_frames(
        np.array([header.frames]), np.array([float(header.rate)]), first.frames
    )
    numbers = frame_numbers(
        header.frames, int(counts[0]), float(steps[0]), clip_sampling.start_fraction
    )
    ((h, w),) = resolution.grids(
        np.array([header.height]),
        np.array([header.width]),
        patch_size=first.height,
        max_tokens=clip_sampling.patches_for_tokens(max_tokens),
        rng=np.random.default_rng(0),
        max_side=input.max_side,
    )
    size = int(h) * first.height, int(w) * first.width
    if isinstance(clip, np.ndarray | Tensor):
        sampled = (frame for frame in _frames(clip, name)[numbers])
    else:
        sampled = decode_frames(
            clip, numbers.tolist(), header.rate, key=name, reading=input.reading
        )
    resized = [resize(frame, size, input.resize_filter) for frame in sampled]
    return cut_tubelets(np.stack(resized), clip_sampling.tubelets, key=name)


def _header(clip: AnyClip, name: str, reading: ReadingConfig) -> VideoHeader:
    if not isinstance(clip, np.ndarray | Tensor):
        return read_header(clip, reading)
    length, height, width = _frames(clip, name).shape[:3]
    return VideoHeader(height, width, length, FOLDER_RATE)


def _length(clip: AnyClip, name: str) -> int:
    return _header(clip, name, DEFAULT_READING).frames


def _frames(clip: np.ndarray | Tensor, name: str) -> Frames:
    frames = clip.cpu().numpy() if isinstance(clip, Tensor) else clip
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape or frames.dtype != np.uint8:
        raise ValueError(
            f"{name}: frames must be uint8 [time, height, width, 3], not {frames.dtype} "
            f"{list(frames.shape)}"
        )
    return frames
