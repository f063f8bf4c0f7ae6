"""`patchpack embed`: feature vectors of images, and of texts, as an .npz file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import Positional, arg

from patchpack.cli.options import LimitOptions, load_within, print_depth_notice
from patchpack.cli.predict import named_files, report_unreadable
from patchpack.data.images import BadImage
from patchpack.inference.image_files import in_groups
from patchpack.inference.output_files import check_new, make_folder
from patchpack.inference.predictor import Predictor, readable
from patchpack.inference.text_files import read_lines
from patchpack.printable import printable
from patchpack.writing import write_new


@dataclass(frozen=True, kw_only=True)
class Embed(LimitOptions):
    """Write the feature vector of each image as arrays `keys` and `vectors` of an .npz file; with
    an image-text model also that of each line of a text file, as `texts` and `text_vectors`."""

    run: Positional[Path]  # run folder
    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGE...")] = ()
    """Image or video files, or folders of them."""
    output: Annotated[Path, arg(aliases=["-o"])]  # .npz file to write
    texts: Path | None = None  # text file, one text per line, for an image-text model
    max_tokens: int | None = None
    """Cost dial: maximum tokens per image or clip; without it, the budget of evaluation in
    training."""
    json: bool = False  # print JSON


def run_embed(options: Embed) -> int:
    if options.output.is_dir():
        raise ValueError(f"{options.output} is a folder: name the .npz file to write")
    if not options.images and not options.texts:
        raise ValueError("there is nothing to embed: give images, or --texts FILE")
    output = options.output
    if output.suffix != ".npz":
        output = output.with_name(f"{output.name}.npz")
    check_new([output])
    make_folder(output.parent)
    predictor = load_within(options.run, options)
    arrays: dict[str, np.ndarray] = {}
    bad: list[BadImage] = []
    if options.texts:
        arrays |= _text_arrays(predictor, options.run, options.texts)
    if options.images:
        arrays |= image_arrays(predictor, options.images, options.max_tokens, bad)
    write_new(output, lambda file: np.savez(file, **arrays))  # pyrefly: ignore
    shapes = {name: list(array.shape) for name, array in arrays.items() if array.ndim == 2}
    if options.json:
        record = {"shape": shapes.get("vectors"), "text_shape": shapes.get("text_vectors")}
        print(json.dumps({"output": str(output), **record}))
    else:
        names = {"vectors": "image vectors", "text_vectors": "text vectors"}
        parts = [f"{n} {names[name]} of {dim}" for name, (n, dim) in shapes.items()]
        print(f"{printable(output)}: {', '.join(parts)}")
    return report_unreadable(bad)


def _text_arrays(predictor: Any, run: Path, path: Path) -> dict[str, np.ndarray]:
    require_text(predictor, run)
    texts = read_lines(path)
    return {"texts": np.array(texts), "text_vectors": predictor.embed_texts(texts)}


def require_text(predictor: Any, run: Path) -> None:
    """Raise ValueError for a model that does not embed texts."""
    if not hasattr(predictor, "embed_texts"):
        raise ValueError(f"{run} is {predictor.description}: it does not embed texts")


def image_arrays(
    predictor: Predictor, images: Sequence[Path], max_tokens: int | None, bad: list[BadImage]
) -> dict[str, np.ndarray]:
    """Keys and vectors of the images that can be read; raises ValueError where none can."""
    keys: list[str] = []
    rows: list[np.ndarray] = []
    paths = named_files(predictor, images)
    print_depth_notice(paths, predictor.spec.reading)
    for group in in_groups(paths, predictor.spec.reading):
        unreadable: list[BadImage] = []
        rows.append(predictor.embed(group, max_tokens=max_tokens, unreadable=unreadable))
        keys += map(str, readable(group, unreadable))
        bad += unreadable
    if not keys:
        report_unreadable(bad)
        raise ValueError("none of the images can be read, so there is nothing to embed")
    return {"keys": np.array(keys), "vectors": np.concatenate(rows)}
