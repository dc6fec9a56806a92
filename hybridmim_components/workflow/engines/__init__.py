# SPDX-License-Identifier: Apache-2.0

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
