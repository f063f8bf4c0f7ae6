"""Pictures of what a segmenter, a detector or a classifier of clips said, beside what is true, for
`eval`."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from patchpack.data.images import BadImage, Pixels, decode
from patchpack.data.index import Index
from patchpack.data.mask_files import with_masks
from patchpack.data.masks import read_mask
from patchpack.data.videos import decode_frames
from patchpack.evaluate.detection import FoundBoxes
from patchpack.judge import Data
from patchpack.serve.clips import ClipPredictor
from patchpack.serve.detector import LEAST
from patchpack.serve.overlay import overlay, palette
from patchpack.serve.segmenter import PixelModel
from patchpack.serve.sheet import Hit, draw_hits

SHOWN = 6  # images, spread over the split
FRAMES = 8  # of a clip
SIDE = 240  # pixels that each is shrunk to fit
TRUTH = (40, 220, 90)  # colour of the boxes that are true


def draw_masks(model: PixelModel, data: Data, tokens: int, windowed: bool) -> Image.Image:
    """Images, their masks, and what was said of them."""
    task = model.card.task
    index, _ = with_masks(data.index, len(model.names), task.ignore)  # pyrefly: ignore
    masks = index.masks
    assert masks is not None
    shown: list[tuple[str, Pixels, np.ndarray]] = []
    for number in _spread(len(index)):
        key = index.keys[number]
        try:
            pixels = decode(index.path(number), key=key)
            mask = read_mask(masks.spec(index.root, number), pixels.shape[:2], key)
            shown.append((key, pixels, mask))
        except BadImage:
            continue
    images = [pixels for _, pixels, _ in shown]
    found = model.predict(images, max_tokens=tokens, windowed=windowed)
    rows = [
        ("images", [Hit(pixels, key.rpartition("/")[2]) for key, pixels, _ in shown]),
        ("their masks", [Hit(overlay(pixels, mask), "") for _, pixels, mask in shown]),
        (f"found at {tokens} tokens", [
            Hit(overlay(pixels, said.mask), "") for pixels, said in zip(images, found, strict=True)
        ]),
    ]  # fmt: skip
    return draw_hits(rows, SIDE)


def draw_found(index: Index, found: Mapping[str, FoundBoxes]) -> Image.Image:
    """Images with their objects in green, and below with what was found, a colour a class."""
    assert index.objects is not None
    truths, answers = [], []
    numbers = [number for number in range(len(index)) if index.keys[number] in found]
    for number in (numbers[place] for place in _spread(len(numbers))):
        key, there = index.keys[number], index.objects.images[number]
        pixels = decode(index.path(number), key=key)
        mine = found[key]
        sure = mine.scores >= LEAST
        colours = palette()[mine.labels[sure] % 255 + 1].tolist()
        green = [TRUTH] * len(there.boxes)
        truths.append(Hit(_boxed(pixels, there.boxes, green), key.rpartition("/")[2]))
        title = f"{sure.sum()} found, {len(there.boxes)} there"
        answers.append(Hit(_boxed(pixels, mine.boxes[sure], colours), title))
    return draw_hits([("objects", truths), (f"found, score {LEAST} or more", answers)], SIDE)


def draw_clips(model: ClipPredictor, data: Data, tokens: int, views: int) -> Image.Image:
    """Clips as strips of frames, each below what was said of it and what is true."""
    index, rows = data.index, []
    clips = index.clips
    assert clips is not None
    for number in _spread(len(index)):
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
    return draw_hits(rows, SIDE // 2)


def _boxed(pixels: Pixels, boxes: np.ndarray, colours: Sequence[Sequence[int]]) -> Pixels:
    """Drawn on an image that is already shrunk, so that every line is as thin as it can be."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    scale = min(1.0, SIDE / max(image.size))
    image = image.resize([max(1, round(side * scale)) for side in image.size])  # pyrefly: ignore
    draw = ImageDraw.Draw(image)
    for (top, left, bottom, right), colour in zip(boxes * scale, colours, strict=True):
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=tuple(colour))
    return np.asarray(image)


def _spread(count: int) -> list[int]:
    """Numbers of at most SHOWN of so many images, evenly spread."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(SHOWN, count))})
