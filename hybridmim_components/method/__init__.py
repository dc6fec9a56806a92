# SPDX-License-Identifier: Apache-2.0

"""The method HybridMIM: masks, the partial region, the losses and the pre-training model.

Paper: https://arxiv.org/abs/2303.10333
"""

from __future__ import annotations

from hybridmim_components.method.mask_fill import MASK_FILLS, MaskFill
from hybridmim_components.method.masking import MaskGrid
from hybridmim_components.method.model import HybridMIM

__all__ = ["MASK_FILLS", "HybridMIM", "MaskFill", "MaskGrid"]
