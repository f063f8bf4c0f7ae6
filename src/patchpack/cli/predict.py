"""`patchpack predict`, `embed` and `search`: a trained model on images, and on texts."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import Positional, arg

from patchpack.cli.eval import read_lines, read_templates
from patchpack.cli.options import refuse_others
from patchpack.data.images import BadImage, decode
from patchpack.data.records import CLIPS
from patchpack.inference.image_files import image_files, read_groups
from patchpack.inference.output_files import check_new
from patchpack.inference.predictor import Predictor
from patchpack.loading import load
from patchpack.tasks.backbone_module import check_unique_class_names
from patchpack.tasks.classification.predictor import ClassificationPredictor, Prediction
from patchpack.tasks.classification.video_predictor import VideoClassificationPredictor
from patchpack.tasks.contrastive.predictor import ImageTextPredictor
from patchpack.tasks.detection.predictor import SCORE_THRESHOLD, DetectionPredictor
from patchpack.tasks.detection.report import predict_boxes
from patchpack.tasks.segmentation.predictor import SegmentationPredictor
from patchpack.tasks.segmentation.report import predict_pixels
from patchpack.visualize.contact_sheet import SHOWN, Hit, draw_hits


@dataclass(frozen=True, kw_only=True)
class Predict:
    """The likeliest labels of images, with probabilities; of segmenters, the share of each class
    and, with --output, the class of every pixel; of detectors, boxes."""

    run: Positional[Path]  # the run's folder
    images: Positional[tuple[Path, ...]]  # files, or folders of them
    labels: tuple[str, ...] = ()  # to choose from or to find, with a model that reads texts
    templates: Path | None = None  # for these: a line each, with {} where the label goes
    max_tokens: int | None = None  # most tokens of an image: the cost dial
    top: int = 5  # labels of each image
    output: Annotated[Path | None, arg(aliases=["-o"])] = None  # a folder for masks, or a COCO file
    score_threshold: float = SCORE_THRESHOLD  # score of a box that is shown
    views: int = 1  # of a clip, at places spread in time, whose logits are averaged
    sliding_window: bool = False  # masks of large images through windows of `max_tokens`
    json: bool = False  # print JSON, one object a line


USES = {
    "labels": (ImageTextPredictor, DetectionPredictor),
    "templates": (ImageTextPredictor,),
    "top": (ClassificationPredictor, ImageTextPredictor),
    "output": (SegmentationPredictor, DetectionPredictor),
    "score_threshold": (DetectionPredictor,),
    "views": (VideoClassificationPredictor,),
    "sliding_window": (SegmentationPredictor,),
}


def run_predict(options: Predict) -> int:
    model = load(options.run)
    refuse_others(options, model, USES)
    check_unique_class_names(options.labels)
    bad: list[BadImage] = []
    if isinstance(model, SegmentationPredictor):
        predict_pixels(
            model, options.images, max_tokens=options.max_tokens, sliding_window=options.sliding_window,
            output=options.output, as_json=options.json, bad=bad,
        )  # fmt: skip
    elif isinstance(model, DetectionPredictor):
        predict_boxes(
            model, options.images, options.labels, max_tokens=options.max_tokens,
            score_threshold=options.score_threshold, output=options.output, as_json=options.json, bad=bad,
        )  # fmt: skip
    else:
        for path, found in _predictions(model, options, bad):
            _print_prediction(path, found, options.json)
    return _report_unreadable(bad)


def _predictions(
    model: ClassificationPredictor | ImageTextPredictor, options: Predict, bad: list[BadImage]
) -> Iterator[tuple[Path, Prediction]]:
    """The likeliest labels of each file; those that cannot be read go into `bad`."""
    dial, top = options.max_tokens, options.top
    if isinstance(model, ImageTextPredictor) and not options.labels:
        raise ValueError(f"{options.run} is {model.kind}: give --labels to choose from")
    if isinstance(model, VideoClassificationPredictor):
        for path in image_files(options.images, CLIPS):
            try:
                (found,) = model.predict([path], max_tokens=dial, top=top, views=options.views)
                yield path, found
            except BadImage as error:
                bad.append(BadImage(str(path), error.reason))
        return
    templates = read_templates(options.templates)
    for paths, images in read_groups(image_files(options.images), bad):
        if isinstance(model, ImageTextPredictor):
            answers = model.predict(
                images, options.labels, templates=templates, max_tokens=dial, top=top
            )
        else:
            answers = model.predict(images, max_tokens=dial, top=top)
        yield from zip(paths, answers, strict=True)


def _print_prediction(path: Path, found: Prediction, as_json: bool) -> None:
    pairs = list(zip(found.labels, found.probabilities, strict=True))
    if as_json:
        labels = [{"label": label, "probability": round(p, 6)} for label, p in pairs]
        print(json.dumps({"image": str(path), "labels": labels}))
    else:
        print(f"{path}: " + ", ".join(f"{label} {p:.1%}" for label, p in pairs))


@dataclass(frozen=True, kw_only=True)
class Embed:
    """The vector of each image, as arrays `keys` and `vectors` of an .npz file; of each line of a
    text file too, as `texts` and `text_vectors`, with a model of images and texts."""

    run: Positional[Path]  # the run's folder
    images: Positional[tuple[Path, ...]] = ()  # files, or folders of them
    output: Annotated[Path, arg(aliases=["-o"])]  # the .npz to write
    texts: Path | None = None  # a file, a text a line
    max_tokens: int | None = None  # most tokens of an image: the cost dial
    json: bool = False  # print JSON


def run_embed(options: Embed) -> int:
    if options.output.is_dir():
        raise ValueError(f"{options.output} is a folder: name the .npz file to write")
    if not options.images and not options.texts:
        raise ValueError("there is nothing to embed: give images, or --texts FILE")
    model = load(options.run)
    arrays: dict[str, np.ndarray] = {}
    bad: list[BadImage] = []
    if options.texts:
        arrays |= _text_arrays(model, options.texts)
    if options.images:
        arrays |= _image_arrays(model, options.images, options.max_tokens, bad)
    output = options.output
    if output.suffix != ".npz":
        output = output.with_name(f"{output.name}.npz")
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".tmp-{output.name}")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)  # pyrefly: ignore
    temporary.replace(output)
    vectors = {name: list(array.shape) for name, array in arrays.items() if array.ndim == 2}
    if options.json:
        shapes = {"shape": vectors.get("vectors"), "text_shape": vectors.get("text_vectors")}
        print(json.dumps({"output": str(output), **shapes}))
    else:
        said = {"vectors": "vectors", "text_vectors": "vectors of texts"}
        parts = [f"{n} {said[name]} of {dim}" for name, (n, dim) in vectors.items()]
        print(f"{output}: {', '.join(parts)}")
    return _report_unreadable(bad)


def _text_arrays(model: Predictor, path: Path) -> dict[str, np.ndarray]:
    if not isinstance(model, ImageTextPredictor):
        raise ValueError(f"this is {model.kind}: it reads no texts")
    texts = read_lines(path)
    return {"texts": np.array(texts), "text_vectors": model.embed_texts(texts)}


def _image_arrays(
    model: Predictor, images: Sequence[Path], max_tokens: int | None, bad: list[BadImage]
) -> dict[str, np.ndarray]:
    """Keys and vectors of what can be read; raises ValueError where nothing can."""
    keys: list[str] = []
    groups: list[np.ndarray] = []
    for paths, pixels in _groups(model, images, bad):
        try:
            vectors = model.embed(pixels, max_tokens=max_tokens)
        except BadImage as error:  # of a clip, which is read only now
            bad.append(BadImage(str(paths[0]), error.reason))
            continue
        keys += map(str, paths)
        groups.append(vectors)
    if not keys:
        _report_unreadable(bad)
        raise ValueError("none of the images can be read, so there is nothing to embed")
    return {"keys": np.array(keys), "vectors": np.concatenate(groups)}


def _groups(
    model: Predictor, images: Sequence[Path], bad: list[BadImage]
) -> Iterable[tuple[list[Path], Sequence]]:
    """Paths of images with their pixels, or of one clip at a time with its path."""
    if isinstance(model, VideoClassificationPredictor):
        return (([path], [path]) for path in image_files(images, CLIPS))
    return read_groups(image_files(images), bad)


@dataclass(frozen=True, kw_only=True)
class Search:
    """The images that are nearest to a text, best first, and a picture of them."""

    run: Positional[Path]  # the run's folder
    images: Positional[Path]  # a folder of images
    queries: Positional[tuple[str, ...]]  # texts, each in quotes
    top: int = 8  # images for each
    max_tokens: int | None = None  # most tokens of an image: the cost dial
    picture: Path | None = None  # where they are shown; search.png in the run's folder when absent
    json: bool = False  # print JSON, one object a line


def run_search(options: Search) -> int:
    if options.top < 1:
        raise ValueError(f"top must be at least 1, not {options.top}")
    if not options.queries:
        raise ValueError("what is to be searched for? Give a text, in quotes")
    picture = options.picture or options.run / "search.png"
    if picture.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"{picture}: a picture ends in .png, .jpg or .webp")
    if options.picture:
        check_new([picture])
    model = load(options.run)
    if not isinstance(model, ImageTextPredictor):
        raise ValueError(f"{options.run} is {model.kind}: it reads no texts")
    texts = model.embed_texts(options.queries)
    bad: list[BadImage] = []
    found = _image_arrays(model, [options.images], options.max_tokens, bad)
    keys, cosines = found["keys"], texts @ found["vectors"].T
    rows = []
    for query, scores in zip(options.queries, cosines, strict=True):
        nearest = np.argsort(-scores, kind="stable")[: options.top]
        hits = [(str(keys[i]), float(scores[i])) for i in nearest]
        shown = [Hit(decode(key, key=key), Path(key).name) for key, _ in hits[:SHOWN]]
        rows.append((query, shown))
        if options.json:
            images = [{"image": key, "cosine": round(score, 6)} for key, score in hits]
            print(json.dumps({"query": query, "images": images}))
        else:
            print(query)
            print("\n".join(f"  {score:6.3f}  {key}" for key, score in hits))
    draw_hits(rows).save(picture)
    if not options.json:
        print(picture)
    return _report_unreadable(bad)


def _report_unreadable(bad: Sequence[BadImage]) -> int:
    """Name what could not be read; gives the exit status."""
    for error in bad:
        print(f"patchpack: {error}", file=sys.stderr)
    return 1 if bad else 0
