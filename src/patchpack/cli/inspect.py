"""`patchpack inspect`: what packing makes of a folder of images or clips."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from tyro.conf import Positional

from patchpack.batch import Tubelet
from patchpack.cli.options import LimitOptions, print_depth_notice
from patchpack.data.annotations.summary import BoxSummary, summarize_boxes
from patchpack.data.bad_images import list_bounded
from patchpack.data.config import PackingConfig
from patchpack.data.index import Index, build_index
from patchpack.data.packing.resolution import Native, Resolution
from patchpack.data.reading import ReadingConfig
from patchpack.data.records import CLIPS, IMAGES
from patchpack.data.statistics import QUANTILES, Survey, plan_all, survey
from patchpack.data.video.frame_sampling import ClipSampling, FrameSampling
from patchpack.inference.output_files import check_outside, check_picture, write_picture
from patchpack.model.navit import forward_flops
from patchpack.model.presets import model_config
from patchpack.terminal import Terminal


@dataclass(frozen=True, kw_only=True)
class Inspect(LimitOptions):
    """Report sizes, aspect ratios, tokens, the fill of packs and the compute that packing saves,
    from file headers alone."""

    source: Positional[Path]  # image or clip folder, COCO file, or .csv or .jsonl manifest
    patch_size: int = 16  # side of a patch in pixels
    # Rule that selects the frames of each clip, two per tubelet; without it, images are inspected.
    frames: FrameSampling | None = None
    max_tokens: int = 8192  # maximum tokens per pack
    # Rule that sets the size of each image or frame.
    resolution: Resolution = dataclasses.field(default_factory=Native)
    picture: Path | None = None  # PNG file for a picture of the first pack; needs patchpack[report]
    max_bad_fraction: float = 0.01  # share of unreadable images above which it stops, 0 to 1
    # Values that become black and white, in images of one channel with more than 8 bits, such as
    # 0 4095 for 12-bit cameras; without it, 0 65535.
    intensity_range: tuple[float, float] | None = None
    json: bool = False  # print JSON


def run_inspect(options: Inspect) -> int:
    """Print the survey; returns the exit status, 1 if items cannot be read."""
    if options.patch_size < 1 or options.max_tokens < 1:
        raise ValueError("patch_size and max_tokens must be at least 1")
    if options.frames and options.picture:
        raise ValueError("--picture draws a pack of images, not of clips")
    if options.picture:
        check_picture(options.picture)
        check_outside(options.picture, [options.source])
    media_type = CLIPS if options.frames else IMAGES
    reading = options.over(ReadingConfig(intensity_range=options.intensity_range))
    index = build_index(
        options.source,
        max_bad_fraction=options.max_bad_fraction,
        media_type=media_type,
        reading=reading,
    )
    print_depth_notice(index.paths, reading)
    config = model_config("navit_s16", patch_size=options.patch_size)
    clip_sampling = None
    if options.frames:
        shapes = (Tubelet(2, options.patch_size, options.patch_size),)
        config = model_config("navit_s16x2", patch_size=options.patch_size, tubelets=shapes)
        clip_sampling = ClipSampling(options.frames, shapes)
    packing = PackingConfig(
        patch_size=options.patch_size, max_tokens=options.max_tokens, resolution=options.resolution
    )
    result = survey(
        index,
        packing,
        flops=lambda lengths: forward_flops(config, lengths),
        clip_sampling=clip_sampling,
    )
    if options.picture:
        _draw_first_pack(index, packing, reading, options.picture)
    boxes = summarize_boxes(index)
    if options.json:
        counts = boxes.json() if boxes else {}
        messages = {"messages": index.messages}
        print(json.dumps(result.json() | messages | index.scan.json() | counts))
    else:
        _print_survey(result, index, boxes)
    return 1 if index.unread else 0


def _draw_first_pack(
    index: Index, packing: PackingConfig, reading: ReadingConfig, path: Path
) -> None:
    from PIL import Image

    from patchpack.data.loader import LoaderConfig, load_epoch
    from patchpack.data.spec import Preprocessing
    from patchpack.visualize.figures import draw_pack

    # A pack of a few hundred tokens can be looked at; one of thousands cannot.
    packing = dataclasses.replace(
        packing, max_tokens=min(packing.max_tokens, 4096), trim_to_fill=False
    )
    plan = plan_all(index, packing)
    preprocessing = Preprocessing(patch_size=packing.patch_size, reading=reading)
    first = next(load_epoch(index, plan, preprocessing, LoaderConfig(workers=0)))
    write_picture(path, Image.fromarray(draw_pack(first.batch, packing.patch_size)))


def _print_survey(survey: Survey, index: Index, boxes: BoxSummary | None) -> None:
    item_name = index.item_name
    console = Terminal()
    classes = f" in {survey.classes} classes" if survey.classes else ""
    console.print(f"{survey.images:,} {item_name}{classes}")
    for message in [*index.messages, *(boxes.lines(len(survey.splits)) if boxes else ())]:
        console.print(message, soft_wrap=True)
    for error in list_bounded(survey.unreadable):
        console.print(f"unreadable: {error}", soft_wrap=True)
    rows = Table(box=None, padding=(0, 2), header_style="dim")
    for title in ("", *(f"{q:.0%}" for q in QUANTILES)):
        rows.add_column(title, justify="right")
    rows.add_row("height, px", *(f"{v:,.0f}" for v in survey.heights))
    rows.add_row("width, px", *(f"{v:,.0f}" for v in survey.widths))
    rows.add_row("width / height", *(f"{v:.2f}" for v in survey.aspects))
    if survey.frames:
        rows.add_row("frames", *(f"{v:,.0f}" for v in survey.frames))
        rows.add_row("seconds", *(f"{v:,.1f}" for v in survey.seconds))
    rows.add_row(f"tokens of {survey.patch_size} px", *(f"{v:,.0f}" for v in survey.tokens))
    console.print(rows)
    console.print(
        f"{survey.packs:,} packs of {survey.max_tokens:,} tokens, "
        f"{survey.images_per_pack:.1f} {item_name} each: {survey.fill:.2%} full, "
        f"{survey.fill_trimmed:.2%} where the last of a pack may be trimmed"
    )
    padded = 1 - survey.gflops / survey.gflops_padded
    square = 1 - survey.gflops / survey.gflops_square
    console.print(
        f"compute of a ViT-S, forward: {survey.gflops:,.0f} GFLOP packed; "
        f"{survey.gflops_padded:,.0f} padded to the longest of 32 ({padded:.0%} saved); "
        f"{survey.gflops_square:,.0f} as squares that keep the detail of 95 % ({square:.0%} saved)"
    )
