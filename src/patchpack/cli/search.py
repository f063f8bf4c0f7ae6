"""`patchpack search`: the images of a folder that are nearest to a text."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import Positional, arg

from patchpack.cli.embed import image_arrays, require_text
from patchpack.cli.options import LimitOptions, kept, load_within
from patchpack.cli.predict import report_unreadable
from patchpack.data.images import BadImage, decode
from patchpack.inference.output_files import (
    check_outside,
    check_picture,
    replace_picture,
    write_picture,
)
from patchpack.printable import printable
from patchpack.visualize.contact_sheet import SHOWN, Hit, draw_hits


@dataclass(frozen=True, kw_only=True)
class Search(LimitOptions):
    """Rank the images of a folder by similarity to each query text, best first, and draw a picture
    of them."""

    run: Positional[Path]  # run folder of an image-text model
    images: Positional[Path]  # folder of images
    queries: Annotated[Positional[tuple[str, ...]], arg(metavar="TEXT...")]
    """Query texts, each in quotes."""
    top: int = 8  # images per query
    max_tokens: int | None = None
    """Cost dial: maximum tokens per image; without it, the budget of evaluation in training."""
    picture: Path | None = None
    """Image file for the results; without it, search.png in the run folder."""
    json: bool = False  # print one JSON object per query


def run_search(options: Search) -> int:
    if options.top < 1:
        raise ValueError(f"top must be at least 1, not {options.top}")
    if not options.queries:
        raise ValueError("there is no query: give a text in quotes")
    picture = options.picture or options.run / "search.png"
    check_picture(picture, new=options.picture is not None)
    if options.picture is not None:
        check_outside(picture, [options.images])
    predictor = load_within(options.run, options)
    require_text(predictor, options.run)
    texts = predictor.embed_texts(options.queries)
    bad: list[BadImage] = []
    images = image_arrays(predictor, [options.images], options.max_tokens, bad)
    keys, similarities = images["keys"], texts @ images["vectors"].T
    rows = []
    for query, scores in zip(options.queries, similarities, strict=True):
        nearest = np.argsort(-scores, kind="stable")[: options.top]
        hits = [(str(keys[i]), float(scores[i])) for i in nearest]
        thumbnails = [
            Hit(decode(key, key=key, reading=predictor.spec.reading), Path(key).name)
            for key, _ in hits[:SHOWN]
        ]
        rows.append((query, thumbnails))
        if options.json:
            records = [{"image": key, "cosine": round(score, 6)} for key, score in hits]
            print(json.dumps({"query": query, "images": records}))
        else:
            print(printable(query))
            print("\n".join(f"  {score:6.3f}  {printable(key)}" for key, score in hits))
    status = report_unreadable(bad)
    sheet = draw_hits(rows)
    if options.picture is not None:
        write_picture(picture, sheet)
    elif not kept(lambda: replace_picture(picture, sheet)):
        return status
    if not options.json:
        print(printable(picture))
    return status
