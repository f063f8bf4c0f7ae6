"""Synthetic clips: a bright bar that moves left or right over a dark background."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from patchpack.batch import Tubelet
from patchpack.config import RunConfig
from patchpack.data.transforms.augment import Augment
from patchpack.data.video.frame_sampling import FixedFps
from patchpack.model.video import VideoConfig
from runs import tiny

CLASSES = ("left", "right")


def film(label: str, rng: np.random.Generator) -> np.ndarray:
    """Return a clip [t, h, w, 3] of 6 to 14 frames and a random aspect ratio."""
    length, height, width = int(rng.integers(6, 15)), *(2 * rng.integers(8, 14, 2)).tolist()
    frames = rng.integers(0, 60, (length, height, width, 1)).astype(np.int64)
    positions = np.linspace(0.1, 0.7, length) if label == "right" else np.linspace(0.7, 0.1, length)
    for frame, position in zip(frames, positions, strict=True):
        left = round(position * width)
        frame[:, left : left + width // 5] += 180
    return np.repeat(frames, 3, 3).astype(np.uint8)


def ramp(length: int = 60) -> np.ndarray:
    """Return frames whose brightness is four times their number."""
    return np.stack([np.full((32, 48, 3), 4 * k, np.uint8) for k in range(length)])


def write_video(path: Path, frames: np.ndarray, rate: int = 10, codec: str = "libx264") -> Path:
    """Write frames to a video at high quality."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(rate))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.gop_size = "yuv420p", 12
        if codec == "libx264":
            stream.options = {"crf": "1", "bf": "2"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_frames(folder: Path, frames: np.ndarray) -> Path:
    """Write a folder of frames whose names need natural sorting."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame{number}.png")
    return folder


def write_films(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """Write root/<split>/<class>/*.mp4, every third clip as a folder of frames."""
    rng = np.random.default_rng(seed)
    for split, count in counts.items():
        for number in range(count):
            label = CLASSES[number % 2]
            frames, path = film(label, rng), root / split / label / f"{number:03d}"
            if number % 3 == 2:
                write_frames(path, frames)
            else:
                write_video(path.with_suffix(".mp4"), frames, rate=int(rng.choice([10, 20])))
    return root


def tiny_clips(root: Path, out: Path, steps: int = 12, **train: object) -> RunConfig:
    config = tiny(root, out, steps, **train)
    data = replace(
        config.data,
        frames=FixedFps(rate=10, frames=8),
        augment=Augment(min_crop_area=0.6, color_jitter=0.3),
        eval_tokens=96,
    )
    model = VideoConfig(
        dim=16, depth=2, num_heads=2, mlp_dim=32, patch_size=4, drop_path=0.2, dropout=0.1,
        tubelets=(Tubelet(2, 4, 4),),
    )  # fmt: skip
    return replace(config, data=data, model=model)
