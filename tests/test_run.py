"""What a run remembers of its data."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from films import write_films
from patchpack.data.annotations.box_columns import attach_boxes
from patchpack.data.annotations.boxes import Boxes
from patchpack.data.annotations.mask_files import attach_masks
from patchpack.data.index import Index, build_index
from patchpack.data.records import CLIPS
from patchpack.run import fingerprint
from scenes import write_scenes
from test_detecting import write_coco


def masked(root: Path) -> tuple[Index, Index]:
    index, _ = attach_masks(
        build_index(write_scenes(root, {"train": 4}), require_labels=False), 3, None
    )
    keys = index.masks.keys
    return index, replace(index, masks=replace(index.masks, keys=(keys[1], keys[0], *keys[2:])))


def boxed(root: Path) -> tuple[Index, Index]:
    index, _ = attach_boxes(
        build_index(write_coco(root, {"train": 4}), require_labels=False), (), 0.0
    )
    first, *others = index.boxes.images
    moved = Boxes(first.boxes + 1, first.labels)
    return index, replace(index, boxes=replace(index.boxes, images=(moved, *others)))


def filmed(root: Path) -> tuple[Index, Index]:
    index = build_index(write_films(root, {"train": 4}), media_type=CLIPS)
    lengths = index.clips.lengths + np.array([1, 0, 0, 0])
    return index, replace(index, clips=replace(index.clips, lengths=lengths))


@pytest.mark.parametrize("change", [masked, boxed, filmed])
def test_another_mask_box_or_length_is_another_set_of_images(tmp_path, change):
    """So that a run does not go on with data that it did not begin with."""
    before, after = change(tmp_path / "data")
    assert fingerprint(before) == fingerprint(before) != fingerprint(after)
