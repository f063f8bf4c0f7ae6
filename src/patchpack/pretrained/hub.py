"""Sources named as hf-hub:owner/name, or hf-hub:owner/name@revision, fetched to the local cache."""

from pathlib import Path

from patchpack.pretrained.errors import PretrainedError

HUB, LOCAL = "hf-hub:", "local-dir:"
PATTERNS = ("*.json", "*.safetensors", "merges.txt")  # nothing that is code or a pickle


def local_path(source: str | Path) -> Path:
    """The path of a source on disk; that of a repository of the hub is fetched first.

    Raise PretrainedError for a repository that cannot be fetched.
    """
    name = str(source)
    if name.startswith(LOCAL):
        return Path(name.removeprefix(LOCAL))
    if not name.startswith(HUB):
        return Path(name)
    repository, _, revision = name.removeprefix(HUB).partition("@")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise PretrainedError(
            f"{name} needs huggingface_hub: pip install 'patchpack[hub]'"
        ) from error
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=list(PATTERNS)
        )
    except Exception as error:  # of the network, the cache, the name, or access
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise PretrainedError(f"{name} cannot be fetched: {reason}") from error
    return Path(folder)


def hub_hint(source: str | Path) -> str:
    """What to add to a message on a path that does not exist, where it may be a repository."""
    name = str(source)
    is_repository = name.count("/") == 1 and not name.startswith((".", "/", "~", HUB, LOCAL))
    return f"; a repository of the hub is named {HUB}{name}" if is_repository else ""


def absolute_source(source: Path) -> Path:
    """A path that is valid in any folder; the name of a repository of the hub stays as it is."""
    return source if str(source).startswith(HUB) else local_path(source).resolve()
