"""Images to judge with, shown to a model once, and what that took."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from patchpack.batch import PackedBatch
from patchpack.data.bad_images import BadImages
from patchpack.data.index import Index, build_index
from patchpack.data.packing.dropping import Dropping, NoDrop
from patchpack.data.packing.resolution import Resolution
from patchpack.data.pipeline import EvalView, evaluation_batches
from patchpack.data.records import CLIPS, IMAGES
from patchpack.data.transforms.perturbations import Perturbation
from patchpack.data.video.frame_sampling import view_positions
from patchpack.inference.model_spec import input_spec
from patchpack.inference.predictor import PACK_TOKENS, Predictor
from patchpack.model.navit import forward_flops
from patchpack.run import load_config
from patchpack.train.loop import TrainingError


@dataclass(frozen=True, eq=False)
class Data:
    """Images to judge with."""

    index: Index
    max_bad_fraction: float  # of them that may be unreadable

    def bad_images(self) -> BadImages:
        """Those that cannot be read: none yet."""
        index = self.index
        return BadImages(
            index.root, index.label_of, self.max_bad_fraction, item_name=index.item_name
        )


def data_of(
    folder: Path,
    *,
    split: str,
    data: Path | None = None,
    where: Sequence[str] = (),
    max_bad_fraction: float | None = None,
    require_labels: bool = True,
) -> Data:
    """One split of a run's own data, or of another folder.

    where             "column=value" of a manifest: the images to take
    learned           whether the model learned the classes; two towers are asked of any
    max_bad_fraction  as the run has it, when None
    """
    run = load_config(folder)
    config = run.data
    if max_bad_fraction is None:
        max_bad_fraction = config.max_bad_fraction
    root = data or config.root
    if root is None:
        raise TrainingError(f"{folder} does not say where its data are: give --data")
    media_type = CLIPS if run.clip_sampling else IMAGES
    index = build_index(
        root,
        max_bad_fraction=max_bad_fraction,
        require_labels=require_labels,
        media_type=media_type,
    )
    if not where and data is None:
        where = config.where
    return Data(index.where(where).split(split), max_bad_fraction)


def packed(
    model: Predictor,
    data: Data,
    bad: BadImages,
    *,
    tokens: int,
    resolution: Resolution | None = None,
    perturbation: Perturbation | None = None,
    dropping: Dropping | None = None,
    start_fraction: float = 0.5,
) -> Iterator[PackedBatch]:
    """Every image of the data once, as the model is shown it; `bad` learns which are not.

    resolution  the model's own, when None
    place       in time of what is shown of clips, in [0, 1)
    """
    view = EvalView(
        tokens=tokens,
        resolution=resolution or model.spec.resolution,
        perturbation=perturbation,
        dropping=dropping or NoDrop(),
        clip_sampling=model.spec.clip_sampling(start_fraction),
    )
    input = input_spec(model.spec.model)
    for pack in evaluation_batches(data.index, input, view, max_tokens=PACK_TOKENS):
        bad.add(pack.unreadable)
        yield pack.batch


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What judging at one token budget took."""

    max_tokens: int  # most tokens of an image
    gflops_per_image: float  # of a forward pass of the image side, the mean
    images_per_s: float  # loading included
    unreadable: tuple[str, ...]


def judged(
    model: Predictor,
    data: Data,
    tokens: int,
    bad: BadImages,
    use: Callable[[Iterator[PackedBatch]], object],
    views: int = 1,
) -> dict:
    """Hand every image once to `use`, or every clip once for each of its views; the fields of
    Cost, which are of an image or a clip."""
    flops = images = 0

    def counted() -> Iterator[PackedBatch]:
        nonlocal flops, images
        for start_fraction in view_positions(views):
            for batch in packed(model, data, bad, tokens=tokens, start_fraction=start_fraction):
                flops += forward_flops(model.spec.model, batch.lengths)
                images += batch.num_images / views
                yield batch

    began = time.perf_counter()
    use(counted())
    seconds = time.perf_counter() - began
    return {
        "max_tokens": tokens,
        "gflops_per_image": flops / max(1, images) / 1e9,
        "images_per_s": images / seconds,
        "unreadable": tuple(f"{key}: {reason}" for key, reason in bad.reasons.items()),
    }
