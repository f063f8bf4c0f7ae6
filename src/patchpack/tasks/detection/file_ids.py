"""Ids in a file of predictions: those of the COCO file that the model was trained on.

An image is that of the training data whose path has the most names in common with its own, from the
end: a.jpg alone is enough where no other image has that name.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from patchpack.data.sources.objects import Id, SourceIds


class FileIds(NamedTuple):
    """The ids of images and classes in a file of predictions."""

    images: Sequence[Id]
    classes: Sequence[Id]
    known: int  # images with an id of the training data
    files: tuple[str, ...]  # COCO files of the training data with these ids

    @property
    def description(self) -> str:
        """Where the ids come from."""
        if not self.files:
            return "ids of images are 1, 2, …: they are not those of the training data"
        new = len(self.images) - self.known
        more = f"; {new} other images have new ones" if new else ""
        return f"ids of images are those of {', '.join(self.files)}{more}"


class _Match(NamedTuple):
    source: int
    key: str
    names: int  # names of the paths that agree, from the end


def choose_ids(
    sources: Sequence[SourceIds], paths: Sequence[Path], names: Sequence[str]
) -> FileIds:
    """Return the ids of images and classes; 1, 2, … where the sources have none, or where several
    sources disagree.

    sources  of the training data
    paths    of the images
    names    of the classes
    """
    matches = _match(sources, paths)
    used = sorted({match.source for match in matches if match})
    numbers: list[Id] = [sources[m.source].images[m.key] if m else None for m in matches]
    classes = _merge_classes([sources[number] for number in used] or sources)
    counts = Counter(number for number in numbers if number is not None)
    if classes is None or any(count > 1 for count in counts.values()):
        numbers = [None for _ in paths]
        used = []
    taken = [number for source in used for number in sources[source].images.values()]
    ids = classes or {}
    return FileIds(
        _numbered(numbers, taken),
        _numbered([ids.get(name) for name in names], ids.values()),
        sum(number is not None for number in numbers),
        tuple(sources[number].file for number in used),
    )


def _match(sources: Sequence[SourceIds], paths: Sequence[Path]) -> list[_Match | None]:
    """Return the image of the training data that each path is; no two paths are the same one."""
    by_name: dict[str, list[tuple[int, str, tuple[str, ...]]]] = defaultdict(list)
    for number, source in enumerate(sources):
        for key in source.images:
            parts = PurePosixPath(key).parts
            by_name[parts[-1]].append((number, key, parts))
    matches: list[_Match | None] = []
    for path in paths:
        parts = Path(os.path.abspath(path)).parts
        candidates = [
            _Match(number, key, _agreeing(parts, other))
            for number, key, other in by_name[path.name]
        ]
        best = max((match.names for match in candidates), default=0)
        nearest = [match for match in candidates if match.names == best]
        matches.append(nearest[0] if len(nearest) == 1 else None)
    claims: dict[tuple[int, str], list[int]] = defaultdict(list)
    for match in filter(None, matches):
        claims[match.source, match.key].append(match.names)
    longest = {image: max(names) for image, names in claims.items()}
    return [
        match
        if match and claims[match[:2]].count(longest[match[:2]]) == 1
        and match.names == longest[match[:2]]
        else None
        for match in matches
    ]  # fmt: skip


def _agreeing(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the number of equal names at the end of two paths."""
    pairs = zip(reversed(a), reversed(b), strict=False)
    return next((n for n, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


def _merge_classes(sources: Iterable[SourceIds]) -> dict[str, int | float | str] | None:
    """Return the ids of classes by name; None where two files disagree on one."""
    ids: dict[str, int | float | str] = {}
    for source in sources:
        if any(ids.setdefault(name, i) != i for name, i in source.classes.items()):
            return None
    return None if len(set(ids.values())) < len(ids) else ids


def _numbered(ids: Sequence[Id], taken: Iterable[Id]) -> list[Id]:
    """Return the ids, with new numbers for those that are None: above all that are taken."""
    highest = max((int(i) for i in taken if isinstance(i, int | float)), default=0)
    new = iter(range(max(highest, 0) + 1, max(highest, 0) + 1 + len(ids)))
    return [next(new) if number is None else number for number in ids]
