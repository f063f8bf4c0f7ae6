"""Temporal sampling: choose the frames of a clip.

A rule computes the number of sampled frames and their distance from clip lengths and frame rates
alone, so every clip's token count is known before decoding. The start is random in training, new
every epoch. In evaluation it is centered, or evenly spaced over several views.

    frame i  =  ⌊start_fraction · slack + i · step⌋,   slack = length − step · (count − 1)

with 0 ≤ start_fraction < 1.

Axes: clip. Lengths in frames, rates in frames per second, steps in frames of the file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from patchpack.batch import Tubelet
from patchpack.data.video.tubelets import count_tubelets

MAX_FRAMES = 1_000_000  # maximum frames and step of a rule, a bound against typing errors
Lengths = Int[np.ndarray, " clip"]
Rates = Float[np.ndarray, " clip"]


class FrameCounts(NamedTuple):
    """Number of sampled frames per clip, and their distance."""

    counts: Int[np.ndarray, " clip"]  # sampled frames
    steps: Float[np.ndarray, " clip"]  # distance of sampled frames, in frames of the file


@dataclass(frozen=True, kw_only=True)
class UniformFrames:
    """Sample a fixed number of frames, evenly spaced over the whole clip."""

    frames: int = 16  # number of frames to sample; a shorter clip gives fewer

    def __post_init__(self) -> None:
        _check_range(frames=self.frames)

    def count_frames(self, lengths: Lengths, rates: Rates, unit: int) -> FrameCounts:
        counts = round_to_tubelets(np.minimum(self.frames, lengths), unit)
        return FrameCounts(counts, lengths / counts)


@dataclass(frozen=True, kw_only=True)
class FixedFps:
    """Sample at a fixed frame rate; longer clips have more tokens."""

    rate: float  # sampled frames per second; a file with a lower rate keeps its own
    frames: int = 32  # maximum frames to sample; a window of a longer clip

    def __post_init__(self) -> None:
        _check_range(frames=self.frames)
        if not self.rate > 0:
            raise ValueError(f"rate must be more than 0 frames per second, not {self.rate}")

    def count_frames(self, lengths: Lengths, rates: Rates, unit: int) -> FrameCounts:
        return _window(lengths, np.maximum(1, rates / self.rate), self.frames, unit)


@dataclass(frozen=True, kw_only=True)
class StridedFrames:
    """Sample every n-th frame of the file, at any frame rate."""

    step: int = 2  # distance of sampled frames, in frames of the file
    frames: int = 32  # maximum frames to sample; a window of a longer clip

    def __post_init__(self) -> None:
        _check_range(step=self.step, frames=self.frames)

    def count_frames(self, lengths: Lengths, rates: Rates, unit: int) -> FrameCounts:
        return _window(lengths, np.full(len(lengths), float(self.step)), self.frames, unit)


FrameSampling = UniformFrames | FixedFps | StridedFrames


def _check_range(**numbers: int) -> None:
    for name, number in numbers.items():
        if not 1 <= number <= MAX_FRAMES:
            raise ValueError(f"{name} must lie between 1 and {MAX_FRAMES:,}, not {number}")


def _window(
    lengths: Lengths, steps: Float[np.ndarray, " clip"], max_frames: int, unit: int
) -> FrameCounts:
    fitting = np.ceil(lengths / steps).astype(np.int64)
    return FrameCounts(round_to_tubelets(np.minimum(max_frames, fitting), unit), steps)


def round_to_tubelets(counts: Int[np.ndarray, " clip"], unit: int) -> Int[np.ndarray, " clip"]:
    """Round frame counts down to whole tubelets of `unit` frames, at least one tubelet."""
    return np.maximum(1, counts // unit) * unit


def frame_numbers(
    length: int, count: int, step: float, start_fraction: float
) -> Int[np.ndarray, " frame"]:
    """Return the sampled frame numbers of a clip, ascending; a short clip repeats its last frame.

    start_fraction  position of the first frame within the slack, in [0, 1)
    """
    slack = max(1.0, length - step * (count - 1))
    numbers = np.floor(start_fraction * slack + step * np.arange(count) + 1e-9).astype(np.int64)
    return np.minimum(numbers, length - 1)


@dataclass(frozen=True, eq=False)
class Clips:
    """Lengths and frame rates of the clips of an index."""

    lengths: Lengths  # frames
    rates: Rates  # frames per second

    def select(self, indices: Int[np.ndarray, " _"]) -> "Clips":
        return Clips(self.lengths[indices], self.rates[indices])


@dataclass(frozen=True)
class ClipSampling:
    """How frames are sampled from clips and cut into tubelets."""

    frames: FrameSampling  # rule that samples the frames
    tubelets: tuple[Tubelet, ...]  # shapes of the tubelets
    # position of the first frame within the slack, in [0, 1); None: random, new every epoch
    start_fraction: float | None = 0.5

    def sample(self, clips: Clips | None) -> "SampledFrames":
        """Sample the frames of each clip; raise ValueError for a dataset of images."""
        if clips is None:
            raise ValueError("a video model needs clips, but the dataset has images")
        return SampledFrames(
            *self.frames.count_frames(clips.lengths, clips.rates, self.tubelets[0].frames), self
        )

    @property
    def max_frames(self) -> int:
        """The maximum frames sampled from a clip."""
        return int(round_to_tubelets(np.array([self.frames.frames]), self.tubelets[0].frames)[0])

    @property
    def _tokens_per_patch(self) -> float:
        """The maximum tokens of a clip per patch of its frames."""
        area = self.tubelets[0].height * self.tubelets[0].width
        return self.max_frames * area * sum(1 / shape.pixels for shape in self.tubelets)

    def patches_for_tokens(self, tokens: int) -> int:
        """Return the maximum patches per frame with which the longest clip fits in `tokens`.

        Raises ValueError if not even one patch per frame fits.
        """
        if not (patches := int(tokens / self._tokens_per_patch + 1e-9)):
            raise ValueError(
                f"{self.max_frames} frames do not fit in {tokens} tokens: use at least "
                f"{self.tokens_for_patches(1)} tokens or sample fewer frames"
            )
        return patches

    def tokens_for_patches(self, patches: int) -> int:
        """Return the tokens that the longest clip needs with `patches` patches per frame."""
        return ceil(patches * self._tokens_per_patch - 1e-9)


@dataclass(frozen=True, eq=False)
class SampledFrames:
    """The frames sampled from each clip."""

    counts: Int[np.ndarray, " clip"]  # sampled frames
    steps: Float[np.ndarray, " clip"]  # distance of sampled frames, in frames of the file
    clip_sampling: ClipSampling

    def tokens(self, grids: Int[np.ndarray, "clip 2"]) -> Int[np.ndarray, " clip"]:
        """Return each clip's tokens over all tubelet shapes; grids count first-shape tubelets."""
        return count_tubelets(self.counts, grids, self.clip_sampling.tubelets)


def view_positions(count: int) -> Sequence[float]:
    """Return the start fractions of evenly spaced views of a clip; one view is centered."""
    if count < 1:
        raise ValueError(f"there must be at least one view, not {count}")
    return [(view + 0.5) / count for view in range(count)]
