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

"""Losses of HybridMIM, one file per level, and their weighted total."""

from __future__ import annotations

from hybridmim_components.method.losses.accuracy import location_accuracy, number_accuracy
from hybridmim_components.method.losses.contrast import contrast_loss, require_negatives
from hybridmim_components.method.losses.guessing import guessing, visible_mean_error
from hybridmim_components.method.losses.perception import consistency_loss, location_loss, number_loss
from hybridmim_components.method.losses.reconstruction import masked_squared_error, partial_region_loss
from hybridmim_components.method.losses.total import LOSS_TERMS, HybridMIMLoss

__all__ = [
    "LOSS_TERMS",
    "HybridMIMLoss",
    "consistency_loss",
    "contrast_loss",
    "guessing",
    "location_accuracy",
    "location_loss",
    "masked_squared_error",
    "number_accuracy",
    "number_loss",
    "partial_region_loss",
    "require_negatives",
    "visible_mean_error",
]
