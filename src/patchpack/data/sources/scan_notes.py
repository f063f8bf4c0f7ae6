"""What a scan of a folder saw beside its items: files passed over, folders not looked into.

Files of other kinds are counted by suffix. Hidden files, folders of thumbnails and trash of
cameras, network drives and operating systems, and run folders are counted by name.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from patchpack.data.formats import HEIC_SUFFIXES, UNREAD_SUFFIXES

# Folders of thumbnails, such as `_thumb` and `my-thumbnails`; `thumb` and `left_thumb` are classes.
THUMBNAILS = re.compile(
    r"[_@]+thumb(nail)?s?|(.*[_\-. ])?(thumbs|thumbnails)|thmbnl", re.IGNORECASE
)
SYSTEM = {  # folders, lower case
    "__macosx", "@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot",
    "$recycle.bin", "recycler", "system volume information", "lost+found", "ipod photo cache",
    "_vti_cnf",
}  # fmt: skip
CATALOGS = (".lrdata", ".cocatalogdb", ".photolibrary-cache")  # folders of previews
COMPANIONS = {".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", "classes.json"}  # no data
RUN = {"config.json", "log.jsonl"}  # files of a run folder, whose pictures are no data
CAPTIONS = ".txt"  # beside an image of the same name: its texts
NAMED = 8  # maximum names in a message


@dataclass
class ScanNotes:
    """What a scan passed over, and how it took the names of folders."""

    files: Counter[str] = field(default_factory=Counter)  # files that are no items, by suffix
    skipped: Counter[str] = field(default_factory=Counter)  # folders and hidden files, by name
    # Class folders without any item, and the files in each by suffix.
    empty_classes: dict[str, Counter[str]] = field(default_factory=dict)
    unused_masks: list[str] = field(default_factory=list)  # files that are no image's mask
    layout: str = ""  # which meaning was taken where the names of folders have two; "": they do not

    def add(self, names: Collection[str], items: Collection[str]) -> None:
        """Count the files of one folder that are no items.

        names  of these files
        items  names of the items beside them
        """
        stems = {PurePath(name).stem for name in items} if names else set()
        for name in names:
            suffix = PurePath(name).suffix.lower()
            is_caption = suffix == CAPTIONS and PurePath(name).stem in stems
            if not is_caption and name.lower() not in COMPANIONS:
                self.files[suffix or "(no suffix)"] += 1

    @property
    def unread_classes(self) -> dict[str, int]:
        """Class folders that hold images of kinds that are not read, and their numbers."""
        counts = {
            name: sum(count for suffix, count in files.items() if suffix in UNREAD_SUFFIXES)
            for name, files in self.empty_classes.items()
        }
        return {name: count for name, count in counts.items() if count}

    def messages(self) -> list[str]:
        """Describe what was passed over, one line for each kind; none without any."""
        lines = [self.layout] if self.layout else []
        if self.files:
            hint = advice(self.files)
            lines.append(f"passed over: {_counts(self.files)}{f' ({hint})' if hint else ''}")
        if self.skipped:
            lines.append(f"not looked into: {_counts(self.skipped)}")
        lines += [
            f"no image in the class folder {name} ({_counts(files) if files else 'empty'})"
            for name, files in self.empty_classes.items()
        ]
        if self.unused_masks:
            names = ", ".join(self.unused_masks[:NAMED])
            more = len(self.unused_masks) - NAMED
            names += f" and {more:,} more" if more > 0 else ""
            lines.append(f"masks of no image: {len(self.unused_masks):,} ({names})")
        return lines

    def json(self) -> dict[str, object]:
        """Return the counts as JSON."""
        return {
            "passed_over": dict(self.files.most_common()),
            "skipped_folders": dict(self.skipped.most_common()),
            "unused_masks": len(self.unused_masks),
            "empty_classes": {name: dict(files) for name, files in self.empty_classes.items()},
        }


def advice(suffixes: Collection[str]) -> str:
    """Return what to do with images of kinds that are not read; "" for other suffixes alone."""
    unread = UNREAD_SUFFIXES.intersection(suffixes)
    if not unread:
        return ""
    heic = "HEIC is read after pip install 'patchpack[heic]'; " if HEIC_SUFFIXES & unread else ""
    return f"{heic}convert {', '.join(sorted(unread))} to JPEG, PNG or TIFF"


def _counts(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = len(ordered) - NAMED
    text = ", ".join(f"{count:,} {name}" for name, count in ordered[:NAMED])
    return f"{text} and {more} more kinds" if more > 0 else text


def is_system_folder(name: str) -> bool:
    """Return whether a folder holds thumbnails, trash or settings, by its name."""
    lower = name.lower()
    return (
        lower.startswith(".")
        or lower in SYSTEM
        or lower.startswith("__macosx")
        or lower.endswith(CATALOGS)
        or THUMBNAILS.fullmatch(name) is not None
    )
