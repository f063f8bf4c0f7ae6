"""Predictions and evaluations of depth estimators as JSON, text and depth maps."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from patchpack.tasks.depth.predictor import DepthImage
from PIL import Image

from patchpack.inference.output_files import check_new, make_folder, write_picture
from patchpack.metrics.undefined import shown
from patchpack.tasks.task import Evaluation, Report
from patchpack.visualize.tables import new_table


class DepthReport(Report):
    """Median depth of an image; relative error at each budget."""

    def to_json(self, prediction: DepthImage) -> dict[str, Any]:
        return {"median_m": round(float(np.median(prediction.meters)), 4)}

    def to_text(self, prediction: DepthImage) -> str:
        return f"median depth {np.median(prediction.meters):.2f} m"

    def record(self, evaluations: Sequence[Evaluation], predictor: Any) -> dict[str, Any]:
        return {"budgets": [cost.to_json() | result.metrics for cost, result in evaluations]}

    def summary(self, evaluations: Sequence[Evaluation], predictor: Any) -> Iterator[Any]:
        rows = new_table("tokens", "AbsRel", "δ < 1.25", "GFLOP/image")
        for cost, result in evaluations:
            values = result.metrics
            rows.add_row(
                f"{cost.max_tokens}", shown(values["abs_rel"], ".3f"),
                shown(values["delta1"], ".1%"), f"{cost.gflops_per_image:.2f}",
            )  # fmt: skip
        yield rows


class DepthWriter:
    """Writes each depth map as a 16-bit PNG in millimeters, into one folder."""

    def __init__(self, folder: Path, predictor: Any, paths: Sequence[Path], options: Any) -> None:
        self.files = {path: folder / f"{path.stem}.png" for path in paths}
        make_folder(folder)
        check_new(self.files.values())

    def add(self, path: Path, prediction: DepthImage) -> Path:
        millimeters = (prediction.meters * 1000).round().clip(0, 65535).astype(np.uint16)
        write_picture(self.files[path], Image.fromarray(millimeters))
        return self.files[path]

    def close(self) -> None:
        """Every depth map is written already."""
