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

"""What the engines measure besides segmentation: mean losses of an epoch and the masked reconstruction error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from ignite.metrics import Average, Loss
from torch import Tensor

from hybridmim_components.losses import LOSS_TERMS, masked_squared_error
from hybridmim_components.masking import expand_mask

__all__ = ["loss_metric", "loss_of", "lower_is_better", "masked_error_metric", "term_metrics"]


def loss_of(output: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Tensor:
    """The loss in an engine's output, decollated (one copy per item) or not."""
    return (output if isinstance(output, Mapping) else output[0])["loss"]


def loss_metric() -> dict[str, Average]:
    """Mean training loss of an epoch, by the name ``train_loss``."""
    return {"train_loss": Average(output_transform=loss_of)}


def term_metrics() -> dict[str, Average]:
    """Mean of each pre-training loss term over an epoch, and of ``unchanged``, by name."""
    return {name: Average(output_transform=itemgetter(name)) for name in (*LOSS_TERMS, "unchanged")}


def masked_error_metric() -> dict[str, Loss]:
    """Mean squared error of the masked voxels over a validation, by the name ``val_masked_error``; lower is better."""

    def error(outputs: Mapping[str, Tensor], targets: Mapping[str, Any]) -> Tensor:
        mask = targets["region"].crop(expand_mask(targets["mask"], targets["region"].grid))
        image = targets["region"].crop(targets["image"])
        return masked_squared_error(outputs["reconstruction"].float(), image, mask).mean()

    return {
        "val_masked_error": Loss(
            error, output_transform=itemgetter("pred", "label"), batch_size=lambda targets: len(targets["image"])
        )
    }


def lower_is_better(current: float, best: float) -> bool:
    """Metric comparison of MONAI's engines for an error."""
    return current < best
