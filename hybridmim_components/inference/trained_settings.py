# SPDX-License-Identifier: Apache-2.0

"""Check that images are segmented as the weights were trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from hybridmim_components.weights import checked_recipe, recipe_differences

__all__ = ["require_trained_settings"]

logger = logging.getLogger(__name__)


def require_trained_settings(
    network: nn.Module, path: str | Path, settings: Mapping[str, Any], names: Mapping[str, Any] | None = None
) -> None:
    """Refuse weights that do not fit the network, or that were trained with another pre-processing.

    With another voxel size or other intensities, a network gives masks that look like masks and are wrong. Weights
    without a recipe give a warning.

    Args:
        network: the segmentation network.
        path: fine-tuned weights, with their recipe beside them.
        settings: pre-processing of the images, such as ``spacing`` (mm). Those that the recipe has, too, are compared.
        names: settings that may differ, such as the suffixes of ``modalities`` in file names. The log warns of them.

    Raises:
        FileNotFoundError: when there are no weights.
        ValueError: when the weights do not fit, or a setting differs; names it and both values.

    Example:
        >>> from hybridmim_components.weights import save_weights
        >>> save_weights("model.pt", nn.Linear(2, 1), {"spacing": [4, 4, 4]}, bare=True)
        >>> require_trained_settings(nn.Linear(2, 1), "model.pt", {"spacing": [3, 3, 3]})
        Traceback (most recent call last):
        ValueError: inference needs the settings of training (model.pt), but spacing was [4, 4, 4], is [3, 3, 3]
    """
    recipe = checked_recipe(network, path)
    for difference in recipe_differences(recipe, names or {}):
        logger.warning("In training, %s: make sure that they mean the same, in the same order", difference)
    if differences := recipe_differences(recipe, settings):
        raise ValueError(f"inference needs the settings of training ({path}), but {'; '.join(differences)}")
