# SPDX-License-Identifier: Apache-2.0

"""Make PyPI's torchvision importable beside a CPU build of torch. Python runs this file if its folder is on PYTHONPATH.

nnU-Net searches all of its modules for a trainer. Some of them import timm, which imports torchvision. The compiled
library of torchvision is for CUDA. If it cannot be loaded, the import fails because these operators are not defined.
Nothing here calls them.
"""

import torch

for name in ("nms", "qnms"):
    torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
