"""The data to evaluate a run on: a split of its own, or of another dataset."""

from collections.abc import Sequence
from pathlib import Path

from patchpack.data.index import build_index
from patchpack.data.reading import ReadingConfig
from patchpack.data.records import CLIPS, IMAGES
from patchpack.inference.measure import EvalData
from patchpack.pretrained.read import require_run
from patchpack.run import load_config
from patchpack.tasks.registry import task_of
from patchpack.train.loop import TrainingError


def data_source(folder: Path, data: Path | None) -> Path:
    """The folder or file of a run's own data, or of the data given; raises TrainingError where the
    run's own are gone."""
    require_run(folder)
    if data is not None:
        return data
    root = load_config(folder).data.root
    if root is None:
        raise TrainingError(f"{folder} does not name its data: give --data")
    if not root.exists():
        raise TrainingError(
            f"{root}, the data of {folder}, is gone; give its new place with --data"
        )
    return root


def data_of(
    folder: Path,
    *,
    split: str,
    data: Path | None = None,
    where: Sequence[str] = (),
    max_bad_fraction: float | None = None,
    reading: ReadingConfig | None = None,
) -> EvalData:
    """One split of a run's own data, or of another dataset.

    where             manifest filters "column=value"
    max_bad_fraction  share of items that may be unreadable; None: that of the run
    reading           limits of one file; None: those of the run
    """
    root, run = data_source(folder, data), load_config(folder)
    config = run.data
    if max_bad_fraction is None:
        max_bad_fraction = config.max_bad_fraction
    index = build_index(
        root,
        max_bad_fraction=max_bad_fraction,
        require_labels=task_of(run.task).needs_labels,
        media_type=CLIPS if run.input.tubelets else IMAGES,
        reading=reading or config.reading,
    )
    if not where and data is None:
        where = config.where
    index = index.where(where)
    return EvalData(
        index.split(split), max_bad_fraction, is_own=data is None, messages=index.messages
    )
