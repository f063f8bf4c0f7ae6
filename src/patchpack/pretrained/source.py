"""Sources as other libraries publish them, read from disk; nothing is unpickled by default.

    transformers   config.json with model_type, model.safetensors (or shards with an index),
                   preprocessor_config.json, tokenizer.json
    timm           config.json with architecture, model.safetensors
    open_clip      open_clip_config.json, open_clip_model.safetensors
    big_vision     one .npz file of arrays

`hf-hub:owner/name` is fetched by `hub.py` and then read as a folder.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from patchpack.pretrained.errors import PretrainedError

Layout = Literal["transformers", "timm", "open_clip", "big_vision"]
CONFIG, OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"
WEIGHTS = ("model.safetensors", "open_clip_model.safetensors")
TOKENIZERS = ("tokenizer.json", "merges.txt")
INDEX = "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "open_clip_pytorch_model.bin", "model.bin")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth")
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A config and tensors, as published."""

    path: Path
    layout: Layout
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    preprocessor: Mapping[str, Any] | None = None  # preprocessor_config.json; None: there is none
    tokenizer: Path | None = None  # file of a tokenizer; None: there is none
    files: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of each file that was read

    @property
    def name(self) -> str:
        """The path, for messages."""
        return str(self.path)


def is_source(path: Path) -> bool:
    """Whether a path looks like a source of weights, complete or not."""
    if path.is_file():
        return path.suffix in (".safetensors", ".npz", *PICKLE_SUFFIXES)
    names = (CONFIG, OPEN_CLIP_CONFIG, *WEIGHTS, INDEX, *PICKLES)
    return any((path / name).is_file() for name in names)


def read_source(path: Path, *, allow_pickle: bool = False) -> Source:
    """Read a folder, or a file of weights with its config beside it.

    allow_pickle  read a pickled checkpoint where there are no safetensors; only its tensors

    Raise PretrainedError for a source that is incomplete or damaged.
    """
    if not path.exists():
        raise PretrainedError(f"{path}: there is no such file or folder")
    if path.suffix == ".npz":
        tensors, files = _read_npz(path), {path.name: _sha256(path)}
        return Source(path=path, layout="big_vision", config={}, tensors=tensors, files=files)
    folder = path.parent if path.is_file() else path
    config_path = _config_path(folder)
    config = _read_json(config_path)
    layout = _layout(config_path, config)
    paths = [path] if path.is_file() and path.name != CONFIG else _weight_files(folder)
    tensors: dict[str, Tensor] = {}
    for file in paths:
        tensors |= _read_tensors(file, allow_pickle)
    if path.is_dir() and (folder / INDEX).is_file():
        _check_index(folder, tensors)
    read = [config_path, *paths]
    preprocessor = None
    if (file := folder / "preprocessor_config.json").is_file():
        preprocessor = _read_json(file)
        read.append(file)
    tokenizer = next((folder / n for n in TOKENIZERS if (folder / n).is_file()), None)
    read += [tokenizer] if tokenizer else []
    return Source(
        path=path, layout=layout, config=config, tensors=tensors, preprocessor=preprocessor,
        tokenizer=tokenizer, files={file.name: _sha256(file) for file in read},
    )  # fmt: skip


def _config_path(folder: Path) -> Path:
    for name in (OPEN_CLIP_CONFIG, CONFIG):
        if (folder / name).is_file():
            return folder / name
    raise PretrainedError(
        f"{folder} holds no {CONFIG} or {OPEN_CLIP_CONFIG}: it is no model of transformers, timm "
        "or open_clip"
    )


def _layout(path: Path, config: Mapping[str, Any]) -> Layout:
    if path.name == OPEN_CLIP_CONFIG:
        return "open_clip"
    if "model_type" in config:
        return "transformers"
    if "architecture" in config:
        return "timm"
    raise PretrainedError(
        f"{path} names no model_type (transformers) and no architecture (timm): it is of neither"
    )


def _weight_files(folder: Path) -> list[Path]:
    """The files that hold the tensors of a folder."""
    if (folder / INDEX).is_file():
        names = sorted(set(_weight_map(folder).values()))
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise PretrainedError(
                f"{folder} is half a download: {', '.join(missing)} of {len(names)} files are "
                "missing; download it again"
            )
        return [folder / name for name in names]
    for name in (*WEIGHTS, *PICKLES):
        if (folder / name).is_file():
            return [folder / name]
    raise PretrainedError(
        f"{folder} holds no {' or '.join(WEIGHTS)}: it is half a download, or has no weights"
    )


def _weight_map(folder: Path) -> dict[str, str]:
    """Tensor name → file, from the index; files lie in the folder itself."""
    table = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise PretrainedError(f"{folder / INDEX} has no weight_map")
    for name in table.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise PretrainedError(f"{folder / INDEX} names {name!r}, which is no file beside it")
    return table


def _check_index(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    if missing := sorted(set(_weight_map(folder)) - set(tensors)):
        raise PretrainedError(
            f"{folder}: {INDEX} lists {missing[0]!r}, which no file holds: download it again"
        )


def _read_tensors(path: Path, allow_pickle: bool) -> dict[str, Tensor]:
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise PretrainedError(f"{path} is a Git LFS pointer, not the weights: run git lfs pull")
    if path.suffix not in PICKLE_SUFFIXES:
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
            raise PretrainedError(
                f"{path} is damaged or cut off ({error}): download it again"
            ) from error
    if not allow_pickle:
        raise PretrainedError(
            f"{path} is a pickle, which is not read: use a source with model.safetensors, or allow "
            "it with --allow-pickle, which reads tensors only"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises exceptions of any type
        raise PretrainedError(f"{path} holds more than tensors, or is damaged: {error}") from error
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise PretrainedError(f"{path} is no mapping of names to tensors")
    return content


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files}
    except Exception as error:  # zipfile and NumPy raise many types on damaged files
        raise PretrainedError(f"{path} is damaged or cut off ({error})") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PretrainedError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise PretrainedError(f"{path} is no JSON object")
    return content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
