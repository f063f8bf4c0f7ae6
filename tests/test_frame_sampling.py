"""Frame sampling: counts, steps and frame numbers of each rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchpack.batch import Tubelet
from patchpack.data.video.frame_sampling import (
    Clips,
    ClipSampling,
    FixedFps,
    StridedFrames,
    UniformFrames,
    frame_numbers,
    view_positions,
)


@given(
    st.integers(1, 400),
    st.floats(1, 120),
    st.sampled_from(
        [UniformFrames(frames=9), FixedFps(rate=7.5, frames=12), StridedFrames(step=3, frames=5)]
    ),
    st.integers(1, 4),
    st.floats(0, 0.999),
)
def test_sampled_frames_exist_ascend_and_fill_tubelets(length, rate, rule, unit, start_fraction):
    clips = Clips(np.array([length]), np.array([rate]))
    clip_sampling = ClipSampling(rule, (Tubelet(unit, 4, 4),))
    sampled = clip_sampling.sample(clips)
    count, step = int(sampled.counts[0]), float(sampled.steps[0])
    assert count % unit == 0 and unit <= count <= max(clip_sampling.max_frames, unit)
    numbers = frame_numbers(length, count, step, start_fraction)
    assert len(numbers) == count and 0 <= numbers[0] and numbers[-1] < length
    assert (np.diff(numbers) >= 0).all()
    if length >= count * max(1.0, step):
        assert (np.diff(numbers) > 0).all()  # no repeated frame if the clip is long enough


def test_hand_computed_samplings():
    lengths, rates = np.array([100, 50, 10, 1]), np.array([25.0, 50.0, 10.0, 10.0])
    uniform = UniformFrames(frames=8).count_frames(lengths, rates, 2)
    assert uniform.counts.tolist() == [8, 8, 8, 2]
    assert uniform.steps[:3].tolist() == [12.5, 6.25, 1.25]
    fixed_fps = FixedFps(rate=5, frames=16).count_frames(lengths, rates, 1)
    assert fixed_fps.counts.tolist() == [16, 5, 5, 1]
    assert fixed_fps.steps.tolist() == [5, 10, 2, 2]
    strided = StridedFrames(step=4, frames=16).count_frames(lengths, rates, 2)
    assert strided.counts.tolist() == [16, 12, 2, 2]
    # The center of each quarter.
    assert frame_numbers(100, 4, 25.0, 0.5).tolist() == [12, 37, 62, 87]
    assert frame_numbers(100, 4, 5.0, 0.0).tolist() == [0, 5, 10, 15]
    assert frame_numbers(100, 4, 5.0, 0.999)[-1] == 99
    assert frame_numbers(3, 4, 1.0, 0.5).tolist() == [
        0,
        1,
        2,
        2,
    ]  # a short clip repeats its last frame
    assert view_positions(2) == [0.25, 0.75]
    for invalid in (
        lambda: view_positions(0),
        lambda: UniformFrames(frames=0),
        lambda: StridedFrames(step=10**30),
        lambda: FixedFps(rate=0),
    ):
        with pytest.raises(
            ValueError, match=r"at least|more than|must lie between 1 and 1,000,000"
        ):
            invalid()
