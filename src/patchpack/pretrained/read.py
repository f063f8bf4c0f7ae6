"""Weights and their spec, of a run or of another library, by one name."""

from pathlib import Path

from patchpack.checkpoint import list_checkpoints
from patchpack.pretrained.errors import PretrainedError
from patchpack.pretrained.hub import HUB, local_path
from patchpack.pretrained.registry import convert_source
from patchpack.pretrained.source import is_source, read_source
from patchpack.tasks.initialize import TrainedModel, best_of_run


def is_foreign(path: Path) -> bool:
    """Whether a path on disk holds weights of another library, and no run."""
    is_run = (path / "checkpoints").is_dir() or (path / "log.jsonl").is_file()
    return not is_run and is_source(path)


def require_run(source: str | Path) -> None:
    """Raise PretrainedError for weights of another library that were not converted."""
    if str(source).startswith(HUB) or is_foreign(Path(source)):
        raise PretrainedError(
            f"{source} holds weights of another library; this takes a converted folder: "
            f"patchpack convert {source} -o FOLDER"
        )


def read_trained(source: str | Path) -> TrainedModel:
    """The best weights of a run, or converted weights of another library.

    source  run folder; file or folder of another library; hf-hub:owner/name

    Raise CheckpointError for a run without good weights, PretrainedError for weights that are not
    converted.
    """
    path = local_path(source)
    if list_checkpoints(path / "checkpoints", "best") or not is_foreign(path):
        return best_of_run(path)
    converted = convert_source(read_source(path))
    return TrainedModel(path, converted.spec, converted.tensors, str(path))
