"""What a run remembers of its data."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from films import write_films
from patchpack.data.annotations.boxes import BoxAnnotations, Boxes, attach_boxes
from patchpack.data.annotations.masks import Masks, attach_masks
from patchpack.data.index import Index, build_index
from patchpack.data.records import CLIPS
from patchpack.train.items import fingerprint
from scenes import write_scenes
from test_detecting import write_coco


def masked(root: Path) -> tuple[Index, Index]:
    index, _ = attach_masks(
        build_index(write_scenes(root, {"train": 4}), require_labels=False), 3, None
    )
    masks = index.annotation(Masks)
    first, second, *others = masks.keys
    return index, index.with_annotation(replace(masks, keys=(second, first, *others)))


def boxed(root: Path) -> tuple[Index, Index]:
    index, _ = attach_boxes(
        build_index(write_coco(root, {"train": 4}), require_labels=False), (), 0.0
    )
    boxes = index.annotation(BoxAnnotations)
    first, *others = boxes.images
    moved = Boxes(first.boxes + 1, first.labels)
    return index, index.with_annotation(replace(boxes, images=(moved, *others)))


def filmed(root: Path) -> tuple[Index, Index]:
    index = build_index(write_films(root, {"train": 4}), media_type=CLIPS)
    lengths = index.clips.lengths + np.array([1, 0, 0, 0])
    return index, replace(index, clips=replace(index.clips, lengths=lengths))


@pytest.mark.parametrize("change", [masked, boxed, filmed])
def test_fingerprint_changes_with_masks_boxes_and_clip_lengths(tmp_path, change):
    """So that a run is not resumed with other data."""
    before, after = change(tmp_path / "data")
    assert fingerprint(before) == fingerprint(before) != fingerprint(after)
