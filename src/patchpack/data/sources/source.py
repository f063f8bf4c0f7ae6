"""List the records of a dataset, with a reader for each kind of source.

    folder         root/<split>/<class>/*, root/<class>/*, root/images/* with root/masks/*, root/*
    manifest       .csv, .tsv, .jsonl
    annotations    a file or folder in a format of `sources/formats.py`: COCO, YOLO, Pascal VOC, …

Clips use the same layouts, except masks and annotations.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from patchpack.data.records import CLIPS, IMAGES, BadDataset, MediaType, Record
from patchpack.data.sources.folders import scan_folder
from patchpack.data.sources.formats import annotation_reader, read_annotations
from patchpack.data.sources.manifest import MANIFESTS, read_manifest
from patchpack.data.sources.scan_notes import ScanNotes
from patchpack.data.sources.splits import assign_splits

SourceKind = Literal["folder", "manifest", "annotations"]
READERS: dict[SourceKind, Callable[[Path, MediaType], list[Record]]] = {
    "folder": scan_folder,
    "manifest": read_manifest,
    "annotations": lambda source, _: read_annotations(source),
}


GIVEN: dict[SourceKind, str] = {"folder": "by the folders", "manifest": "by the column split"}


@dataclass(frozen=True)
class Listing:
    """The records of a source in the order of their keys, and how they were read."""

    root: Path  # that keys are relative to
    records: list[Record]
    split_rule: str  # how the splits were chosen
    notes: tuple[str, ...]  # messages on the splits
    scan: ScanNotes  # what a scan of a folder passed over


def list_files(source: Path, seed: int, media_type: MediaType = IMAGES) -> Listing:
    """List all records of a source, each with its split.

    seed  of the hash that assigns splits to records without one

    Raises BadDataset for a source that cannot be read or has no items of the media type.
    """
    scan = ScanNotes()
    try:
        kind = _source_kind(source, media_type)
        if kind == "folder":
            records = scan_folder(source, media_type, scan)
        else:
            records = READERS[kind](source, media_type)
    except OSError as error:
        raise BadDataset(f"{error.filename or source} cannot be read: {error.strerror}") from error
    if not records:
        passed_over = "".join(f"; {message}" for message in scan.messages())
        hint = _hint(source, media_type)
        raise BadDataset(f"{source} holds no {media_type.name}: {hint}{passed_over}")
    records.sort(key=lambda record: record.key)
    root = source if source.is_dir() else source.parent
    assigned = assign_splits(records, seed, GIVEN.get(kind, f"by the {kind}"))
    return Listing(root, assigned.records, assigned.rule, assigned.notes, scan)


def _source_kind(source: Path, media_type: MediaType) -> SourceKind:
    suffix = source.suffix.lower()
    if suffix in MANIFESTS and source.is_file():
        return "manifest"
    if media_type == IMAGES and annotation_reader(source):
        return "annotations"
    if source.is_dir():
        return "folder"
    raise BadDataset(f"{source} is neither a folder nor a manifest: {media_type.expected}")


def _hint(source: Path, media_type: MediaType) -> str:
    """Return advice for a dataset without any items of the media type."""
    videos = replace(CLIPS, folders=False)
    if media_type == IMAGES and source.is_dir() and (clips := len(scan_folder(source, videos))):
        return (
            f"but {clips:,} clips, which need a video model, such as --preset navit_s16x2 "
            "(inspect needs frames:uniform-frames)"
        )
    return media_type.expected
