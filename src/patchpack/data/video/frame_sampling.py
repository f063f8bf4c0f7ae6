"""Which frames of a clip are shown: temporal sampling.

A rule says, of lengths and frame rates alone, how many frames are shown and how far apart; so the
plan knows the tokens of every clip before one is decoded. Where the first of them lies is drawn
anew each epoch in training, is the middle in evaluation, and evenly spread over several views.

    frame i  =  ⌊place · slack + i · step⌋,   slack = length − step · (count − 1),   0 ≤ place < 1

Axes: clip. Lengths in frames, rates in frames a second, steps in frames of the file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from patchpack.batch import Tubelet
from patchpack.data.video.tubelets import count_tubelets

MOST = 1_000_000  # frames, shown or passed over: more is a slip
Lengths = Int[np.ndarray, " clip"]
Rates = Float[np.ndarray, " clip"]


class FrameCounts(NamedTuple):
    """How many frames are shown of each clip, and how far apart."""

    counts: Int[np.ndarray, " clip"]
    steps: Float[np.ndarray, " clip"]


@dataclass(frozen=True, kw_only=True)
class UniformFrames:
    """So many frames, evenly over the whole clip, however long it is."""

    frames: int = 16  # fewer of a clip that has fewer

    def __post_init__(self) -> None:
        _possible(frames=self.frames)

    def draw(self, lengths: Lengths, rates: Rates, unit: int) -> FrameCounts:
        counts = round_to_tubelets(np.minimum(self.frames, lengths), unit)
        return FrameCounts(counts, lengths / counts)


@dataclass(frozen=True, kw_only=True)
class FixedFps:
    """So many frames a second, whatever the rate of the file: longer clips have more tokens."""

    rate: float  # frames a second; the file's where that is lower
    frames: int = 32  # at most: a window of a clip that lasts longer

    def __post_init__(self) -> None:
        _possible(frames=self.frames)
        if not self.rate > 0:
            raise ValueError(f"rate must be more than 0 frames a second, not {self.rate}")

    def draw(self, lengths: Lengths, rates: Rates, unit: int) -> FrameCounts:
        return _window(lengths, np.maximum(1, rates / self.rate), self.frames, unit)


@dataclass(frozen=True, kw_only=True)
class StridedFrames:
    """Every second, third … frame, whatever the rate of the file."""

    step: int = 2  # frames
    frames: int = 32  # at most: a window of a clip that has more

    def __post_init__(self) -> None:
        _possible(step=self.step, frames=self.frames)

    def draw(self, lengths: Lengths, rates: Rates, unit: int) -> FrameCounts:
        return _window(lengths, np.full(len(lengths), float(self.step)), self.frames, unit)


FrameSampling = UniformFrames | FixedFps | StridedFrames


def _possible(**numbers: int) -> None:
    for name, number in numbers.items():
        if not 1 <= number <= MOST:
            raise ValueError(f"{name} must lie between 1 and {MOST:,}, not {number}")


def _window(
    lengths: Lengths, steps: Float[np.ndarray, " clip"], most: int, unit: int
) -> FrameCounts:
    fitting = np.ceil(lengths / steps).astype(np.int64)
    return FrameCounts(round_to_tubelets(np.minimum(most, fitting), unit), steps)


def round_to_tubelets(counts: Int[np.ndarray, " clip"], unit: int) -> Int[np.ndarray, " clip"]:
    """Rounded down to whole tubelets of `unit` frames, but to one at least."""
    return np.maximum(1, counts // unit) * unit


def frame_numbers(
    length: int, count: int, step: float, start_fraction: float
) -> Int[np.ndarray, " frame"]:
    """The frames that are shown of one clip, ascending; a short one repeats its last.

    place  where the first of them lies, in [0, 1)
    """
    slack = max(1.0, length - step * (count - 1))
    found = np.floor(start_fraction * slack + step * np.arange(count) + 1e-9).astype(np.int64)
    return np.minimum(found, length - 1)


@dataclass(frozen=True, eq=False)
class Clips:
    """How long the clips of an index are."""

    lengths: Lengths
    rates: Rates

    def select(self, numbers: Int[np.ndarray, " _"]) -> "Clips":
        return Clips(self.lengths[numbers], self.rates[numbers])


@dataclass(frozen=True)
class ClipSampling:
    """How clips are shown to a model."""

    frames: FrameSampling
    tubelets: tuple[Tubelet, ...]
    start_fraction: float | None = (
        0.5  # of the first frame, in [0, 1); drawn anew each epoch when None
    )

    def of(self, clips: Clips | None) -> "SampledFrames":
        """What is shown of each; raises ValueError for images."""
        if clips is None:
            raise ValueError("a model of clips cannot be shown images")
        return SampledFrames(
            *self.frames.draw(clips.lengths, clips.rates, self.tubelets[0].frames), self
        )

    @property
    def most(self) -> int:
        """Frames of the clip of which most are shown."""
        return int(round_to_tubelets(np.array([self.frames.frames]), self.tubelets[0].frames)[0])

    @property
    def _per_patch(self) -> float:
        """Most tokens of a clip for each patch of its frames."""
        area = self.tubelets[0].height * self.tubelets[0].width
        return self.most * area * sum(1 / shape.pixels for shape in self.tubelets)

    def patches_for_tokens(self, tokens: int) -> int:
        """Patches of a frame that so many tokens of a clip have room for, the longest clip's.

        Raises ValueError where they have none for one.
        """
        if not (found := int(tokens / self._per_patch + 1e-9)):
            raise ValueError(
                f"{self.most} frames have no room in {tokens} tokens: {self.tokens_for_patches(1)} is the "
                "least, or show fewer frames"
            )
        return found

    def tokens_for_patches(self, patches: int) -> int:
        """Tokens that have room for a clip, the longest, of so many patches a frame."""
        return ceil(patches * self._per_patch - 1e-9)


@dataclass(frozen=True, eq=False)
class SampledFrames:
    """What is shown of each of some clips."""

    counts: Int[np.ndarray, " clip"]  # frames
    steps: Float[np.ndarray, " clip"]
    clip_sampling: ClipSampling

    def tokens(self, grids: Int[np.ndarray, "clip 2"]) -> Int[np.ndarray, " clip"]:
        """Of clips whose frames have these grids of the first shape, all shapes together."""
        return count_tubelets(self.counts, grids, self.clip_sampling.tubelets)


def view_positions(count: int) -> Sequence[float]:
    """Places of several views of a clip, evenly spread: one is the middle."""
    if count < 1:
        raise ValueError(f"there must be at least one view, not {count}")
    return [(view + 0.5) / count for view in range(count)]
