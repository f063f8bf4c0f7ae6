"""Which images have a mask, and what the masks' numbers are called.

manifest.csv                       a column `mask`: a path, relative as the images' paths are
root/images/x.jpg                  its mask in root/masks/x.png (or root/annotations/x.png)
root/images/<split>/x.jpg          … in root/masks/<split>/x.png
classes.json                       names of the numbers: ["background", …] or {"0": "background", …}
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from patchpack.data.annotations.masks import Masks
from patchpack.data.images import BadImage
from patchpack.data.index import Index
from patchpack.data.records import BadDataset
from patchpack.data.sources.folders import MASK_FOLDERS

COLUMN = "mask"
NAMES = "classes.json"
EXPECTED = (
    "expected a manifest with a column mask, or folders images/ and "
    f"{' or '.join(f'{name}/' for name in MASK_FOLDERS)} whose files have the same names"
)


def attach_masks(
    index: Index, num_classes: int, ignore: int | None
) -> tuple[Index, list[BadImage]]:
    """The images that have a mask, and those that have none; raises BadDataset if none has."""
    check_masks(index)
    cells = index.columns[COLUMN]
    known = [number for number, cell in enumerate(cells) if cell]
    alone = [BadImage(index.keys[i], "has no mask") for i, cell in enumerate(cells) if not cell]
    masks = Masks(tuple(cells[i] for i in known), num_classes, ignore)
    return replace(index.select(known), masks=masks), alone


def check_masks(index: Index) -> None:
    """Raise BadDataset where no image has a mask."""
    if not any(index.columns.get(COLUMN, ())):
        raise BadDataset(f"{index.root} has no mask for any image: {EXPECTED}")


def read_classes(root: Path) -> tuple[str, ...]:
    """The names of classes.json; raises BadDataset where there are none."""
    path = root / NAMES
    hint = "name the classes of the masks' numbers, from 0 on, with task.classes or in " + NAMES
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise BadDataset(f"{path} cannot be read: {hint}") from error
    except (ValueError, RecursionError) as error:
        raise BadDataset(f"{path} is not JSON ({error}): {hint}") from error
    names = found if isinstance(found, list) else _in_order(found, path)
    known = tuple(name for name in names if isinstance(name, str))
    if not known or len(known) < len(names):
        raise BadDataset(f"{path} must hold names: {hint}")
    if len(set(known)) < len(known):
        raise BadDataset(f"{path} names two classes alike: {', '.join(known)}")
    return known


def check_classes(root: Path, names: Sequence[str]) -> None:
    """Raise BadDataset where a classes.json calls the numbers of masks otherwise than a model."""
    if (root / NAMES).exists() and (found := read_classes(root)) != tuple(names):
        raise BadDataset(
            f"{root / NAMES} has the classes {', '.join(found)}, the model {', '.join(names)}: "
            "masks must number them as the model does"
        )


def _in_order(found: object, path: Path) -> Sequence[object]:
    try:
        pairs = [(int(number), name) for number, name in found.items()]  # pyrefly: ignore
    except (AttributeError, ValueError):
        raise BadDataset(f"{path} must be a list of names, or {{number: name}}") from None
    numbered = dict(pairs)
    if sorted(number for number, _ in pairs) != list(range(len(pairs))):
        raise BadDataset(f"{path} must number its names 0, 1, 2 …, not {sorted(numbered)}")
    return [numbered[number] for number in sorted(numbered)]
