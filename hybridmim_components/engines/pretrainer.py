# Copyright 2026 HybridMIM bundles contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The pre-training engine: MONAI's SupervisedTrainer, with the five loss terms as outputs and metrics."""

from __future__ import annotations

from typing import Any

from monai.engines import SupervisedTrainer
from torch import Tensor
from torch.nn import functional as F

from hybridmim_components.losses import LOSS_TERMS, HybridMIMLoss
from hybridmim_components.masking import MaskGrid, expand_mask

__all__ = ["HybridMIMTrainer", "unchanged_share"]


class HybridMIMTrainer(SupervisedTrainer):
    """Train :class:`.networks.HybridMIM` with :class:`.losses.HybridMIMLoss`.

    ``state.output`` holds the total as ``loss``, each term by its name, and ``unchanged``, the share of masked patches
    that masking does not change (air, filled with zeros), whose labels are noise.

    Args:
        loss_function: the loss.
        kwargs: arguments of ``monai.engines.SupervisedTrainer``; ``prepare_batch`` is a :class:`.MaskedBatch`.
    """

    def __init__(self, *, loss_function: HybridMIMLoss, **kwargs: Any) -> None:
        super().__init__(loss_function=self._total_loss, decollate=False, **kwargs)
        self.terms = loss_function

    def _total_loss(self, outputs: dict[str, Tensor], targets: dict[str, Any]) -> Tensor:
        terms = self.terms(outputs, **targets)
        self.state.output.update({name: terms[name].detach() for name in LOSS_TERMS})
        self.state.output["unchanged"] = self._unchanged(targets)
        return terms["loss"]

    def _unchanged(self, targets: dict[str, Any]) -> Tensor:
        model = getattr(self.network, "module", self.network)  # of DistributedDataParallel
        if getattr(model, "mask_token", None) is not None:
            return targets["image"].new_zeros(())
        return unchanged_share(targets["image"], targets["mask"], targets["region"].grid)


def unchanged_share(image: Tensor, mask: Tensor, grid: MaskGrid) -> Tensor:
    """Share of the masked patches that hold nothing but zeros, which a fill of zero leaves as they were.

    Args:
        image: crops (B, C, *image_size).
        mask: boolean (B, S, P).
        grid: the crops' grid.

    Returns:
        Scalar in [0, 1].
    """
    pool = {2: F.max_pool2d, 3: F.max_pool3d}[len(grid.image_size)]
    largest = pool(image.abs().amax(1, keepdim=True), grid.patch_size, stride=grid.patch_size)
    corner = tuple(slice(None, None, size) for size in grid.patch_size)
    masked = expand_mask(mask, grid)[(slice(None), slice(None), *corner)]
    return ((largest == 0) & masked).sum() / masked.sum().clamp(min=1)
