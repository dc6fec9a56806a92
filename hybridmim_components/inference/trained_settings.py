# SPDX-License-Identifier: Apache-2.0

"""Check that images are segmented as the weights were trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from hybridmim_components.weights import checked_recipe, recipe_differences

__all__ = ["require_trained_settings"]


def require_trained_settings(network: nn.Module, path: str | Path, settings: Mapping[str, Any]) -> None:
    """Refuse weights that do not fit the network, or that were trained with another pre-processing.

    With another voxel size or other intensities, a network gives masks that look like masks and are wrong. Weights
    without a recipe give a warning.

    Args:
        network: the segmentation network.
        path: fine-tuned weights, with their recipe beside them.
        settings: pre-processing of the images, such as ``spacing`` (mm). Those that the recipe has, too, are compared.

    Raises:
        FileNotFoundError: when there are no weights.
        ValueError: when the weights do not fit, or a setting differs; names it and both values.

    Example:
        >>> from hybridmim_components.weights import save_weights
        >>> save_weights("model.pt", nn.Linear(2, 1), {"spacing": [4, 4, 4]}, bare=True)
        >>> require_trained_settings(nn.Linear(2, 1), "model.pt", {"spacing": [3, 3, 3]})
        Traceback (most recent call last):
        ValueError: inference needs the settings of training, but spacing was [4, 4, 4], is [3, 3, 3] (weights model.pt)
    """
    differences = "; ".join(recipe_differences(checked_recipe(network, path), settings))
    if differences:
        raise ValueError(f"inference needs the settings of training, but {differences} (weights {path})")
