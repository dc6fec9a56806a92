# SPDX-License-Identifier: Apache-2.0

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
