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

"""Engine and metrics of pre-training; fine-tuning and evaluation use MONAI's own engines."""

from __future__ import annotations

from hybridmim_components.workflow.engines.masked_batch import FixedMaskBatch, MaskedBatch
from hybridmim_components.workflow.engines.metrics import (
    loss_metric,
    loss_of,
    lower_is_better,
    masked_error_metric,
    term_metrics,
    validation_metrics,
)
from hybridmim_components.workflow.engines.parameters import decay_groups
from hybridmim_components.workflow.engines.pretrainer import HybridMIMTrainer, perception_figures, unchanged_share
from hybridmim_components.workflow.engines.run import run

__all__ = [
    "FixedMaskBatch",
    "HybridMIMTrainer",
    "MaskedBatch",
    "decay_groups",
    "loss_metric",
    "loss_of",
    "lower_is_better",
    "masked_error_metric",
    "perception_figures",
    "run",
    "term_metrics",
    "unchanged_share",
    "validation_metrics",
]
