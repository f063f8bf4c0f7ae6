"""The single-frame baseline of `motions.py`: the middle frame in evaluation.

    patchpack train recipes/motions_frame.py --data.root motions
    patchpack eval runs/motions_frame --split test

A frame does not distinguish four of the classes, and of the other classes only the pair: the
expected maximum is about 40 %. 2 minutes; 21.0 % test top-1.
"""

from dataclasses import replace
from pathlib import Path

from patchpack.batch import Tubelet
from patchpack.config import load_recipe
from patchpack.data.video.frame_sampling import UniformFrames

clips = load_recipe(Path(__file__).with_name("motions.py"))

config = replace(
    clips,
    out=Path("runs/motions_frame"),
    data=replace(clips.data, frames=UniformFrames(frames=1), max_tokens=1024),
    model=replace(clips.model, tubelets=(Tubelet(1, 8, 8),)),
    train=replace(clips.train, steps=600),
)
