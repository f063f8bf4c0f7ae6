"""timm and transformers, importable beside builds of torchvision that need libraries of a GPU.

Such a build fails at import, unless two operators exist.
"""

import torch

LIBRARY = torch.library.Library("torchvision", "DEF")
LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import open_clip  # noqa: E402
import timm  # noqa: E402
import transformers  # noqa: E402

__all__ = ["open_clip", "timm", "transformers"]
