"""`patchpack eval` and `predict` of a segmenter: tables of IoU, masks as files, and pictures."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from patchpack.data.annotations.masks import Masks, attach_masks, read_mask
from patchpack.data.images import BadImage, Pixels, decode
from patchpack.evaluation import Data, PixelResult, segment_at
from patchpack.inference.image_files import image_files, read_groups
from patchpack.inference.output_files import check_new, make_folder
from patchpack.metrics.segmentation import table
from patchpack.tasks.segmentation.predictor import SegmentationPredictor, SegmentedImage
from patchpack.visualize.contact_sheet import EVAL_SIDE, Hit, draw_hits, evenly_spaced
from patchpack.visualize.overlay import overlay, palette
from patchpack.visualize.tables import cost_of, new_table


def eval_pixels(
    model: SegmentationPredictor, data: Data, budgets: Sequence[int], *, sliding_window: bool, out: Path,
    name: str, as_json: bool,
) -> None:  # fmt: skip
    """Judge at each budget, print, and leave the figures in `out`."""
    results = segment_at(model, data, budgets, sliding_window=sliding_window)
    record = {"run": name, "budgets": [
        {**cost_of(r), **table(r.counts, model.names)} for r in results
    ]}  # fmt: skip
    make_folder(out.parent)
    out.write_text(json.dumps(record, indent=1) + "\n")
    picture = out.with_name(f"{out.stem}.png")
    draw_masks(model, data, budgets[-1], sliding_window).save(picture)
    if as_json:
        print(json.dumps(record))
        return
    console = Console(markup=False, highlight=False)
    rows = new_table("tokens", "mean IoU", "pixel accuracy", "GFLOP/image", "images/s", "images")
    for r in results:
        rows.add_row(
            f"{r.max_tokens}", f"{r.counts.mean_iou:.4f}", f"{r.counts.pixel_accuracy:.4f}",
            f"{r.gflops_per_image:.3f}", f"{r.images_per_s:,.1f}", f"{r.counts.images}",
        )  # fmt: skip
    console.print(rows)
    _print_classes(console, results[-1], model.names)
    for error in results[-1].unreadable:
        console.print(f"left out: {error}", soft_wrap=True)
    console.print(f"{out}, {picture}")


def _print_classes(console: Console, result: PixelResult, names: Sequence[str]) -> None:
    console.print(f"IoU of each class at {result.max_tokens} tokens:")
    for name, value in zip(names, result.counts.iou.tolist(), strict=True):
        console.print(f"  {value:6.1%}  {name}" if value == value else f"       -  {name}")


def predict_pixels(
    model: SegmentationPredictor, images: Sequence[Path], *, max_tokens: int | None, sliding_window: bool,
    output: Path | None, as_json: bool, bad: list[BadImage],
) -> None:  # fmt: skip
    """Print what share of each image is what; with `output`, its mask as a PNG in that folder."""
    paths = list(dict.fromkeys(image_files(images)))
    masks = dict(zip(paths, _mask_names(paths), strict=True))
    if output:
        make_folder(output)
        check_new(output / name for name in masks.values())
    for group, pixels in read_groups(paths, bad):
        answers = model.predict(pixels, max_tokens=max_tokens, sliding_window=sliding_window)
        for path, found in zip(group, answers, strict=True):
            mask = output and output / masks[path]
            if mask:
                write_mask(found, mask)
            _print(path, found, mask, as_json)


def _mask_names(paths: Sequence[Path]) -> Iterator[str]:
    """A name for the mask of each image that no other has: folders may hold images of one name."""
    taken: set[str] = set()
    for path in paths:
        name, number = path.stem, 1
        while name in taken:
            number += 1
            name = f"{path.stem}-{number}"
        taken.add(name)
        yield f"{name}.png"


def write_mask(found: SegmentedImage, path: Path) -> None:
    """The numbers of classes, in a palette, so that viewers show colours."""
    image = Image.fromarray(np.ascontiguousarray(found.mask)).convert("P")
    image.putpalette(palette().ravel().tolist())
    image.save(path)


def _print(path: Path, found: SegmentedImage, mask: Path | None, as_json: bool) -> None:
    if as_json:
        shares = {name: round(share, 6) for name, share in found.shares.items()}
        print(json.dumps({"image": str(path), "shares": shares, "mask": mask and str(mask)}))
        return
    shares = ", ".join(f"{name} {share:.1%}" for name, share in found.shares.items())
    print(f"{path}: {shares}" + (f" → {mask}" if mask else ""))


def draw_masks(
    model: SegmentationPredictor, data: Data, tokens: int, sliding_window: bool
) -> Image.Image:
    """Images, their masks, and what was said of them."""
    task = model.spec.task
    index, _ = attach_masks(data.index, len(model.names), task.ignore_index)  # pyrefly: ignore
    masks = index.annotation(Masks)
    shown: list[tuple[str, Pixels, np.ndarray]] = []
    for number in evenly_spaced(len(index)):
        key = index.keys[number]
        try:
            pixels = decode(index.path(number), key=key)
            mask = read_mask(masks.spec(index.root, number), pixels.shape[:2], key)
            shown.append((key, pixels, mask))
        except BadImage:
            continue
    images = [pixels for _, pixels, _ in shown]
    found = model.predict(images, max_tokens=tokens, sliding_window=sliding_window)
    rows = [
        ("images", [Hit(pixels, key.rpartition("/")[2]) for key, pixels, _ in shown]),
        ("their masks", [Hit(overlay(pixels, mask), "") for _, pixels, mask in shown]),
        (f"found at {tokens} tokens", [
            Hit(overlay(pixels, said.mask), "") for pixels, said in zip(images, found, strict=True)
        ]),
    ]  # fmt: skip
    return draw_hits(rows, EVAL_SIDE)
