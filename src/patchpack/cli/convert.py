"""`patchpack convert`: weights of another library as a run folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from patchpack.pretrained.convert import check, write_converted
from patchpack.pretrained.hub import local_path
from patchpack.pretrained.registry import convert_source
from patchpack.pretrained.source import read_source


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Convert weights of transformers, timm, open_clip or big_vision: embed, predict, eval and
    train --init take the folder as they take a run. The converted model is compared with the
    original, where its library is installed."""

    source: Positional[Path]
    """Folder or file of weights with their config, or hf-hub:owner/name."""
    output: Annotated[Path, arg(aliases=["-o"])]  # folder to write
    allow_pickle: bool = False
    """Read a pickled checkpoint where there are no safetensors; only its tensors are read."""
    json: bool = False  # print JSON


def run_convert(options: Convert) -> None:
    path = local_path(options.source)
    source = read_source(path, allow_pickle=options.allow_pickle)
    converted = convert_source(source)
    checked = check(source, converted)
    write_converted(source, converted, checked, options.output)
    spec = converted.spec
    record = {
        "output": str(options.output),
        "family": converted.family,
        "parameters": converted.parameters,
        "classes": len(converted.classes),
        "eval_tokens": spec.eval_tokens,
        "left_out": list(converted.left_out),
        "check": checked.to_json(),
    }
    if options.json:
        print(json.dumps(record))
        return
    c, texts = converted.model, ", texts" if converted.texts else ""
    print(
        f"{converted.family}: {converted.parameters:,} parameters; dim {c.dim}, depth {c.depth}, "
        f"{c.patch_size} px patches, {len(converted.classes)} classes{texts}"
    )
    print(f"images: {spec.resolution}, {c.resize_filter}")
    if converted.left_out:
        count, names = len(converted.left_out), ", ".join(converted.left_out[:3])
        print(f"left out: {count} tensors ({names}{', …' if count > 3 else ''})")
    print(f"check: {checked}")
    print(f"patchpack embed {options.output} IMAGE... -o vectors.npz")
