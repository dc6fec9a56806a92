# SPDX-License-Identifier: Apache-2.0

"""Weights with the recipe that made them: saving, reading, checking, and moving into a segmentation network."""

from __future__ import annotations

from hybridmim_components.weights.saving import (
    checked_recipe,
    find_weights,
    has_unknown_volumes,
    how_to_get_weights,
    read_recipe,
    read_weights,
    save_weights,
    seen_volumes,
)
from hybridmim_components.weights.transfer import LoadReport, adapt_stem, load_pretrained, recipe_differences

__all__ = [
    "LoadReport",
    "adapt_stem",
    "checked_recipe",
    "find_weights",
    "has_unknown_volumes",
    "how_to_get_weights",
    "load_pretrained",
    "read_recipe",
    "read_weights",
    "recipe_differences",
    "save_weights",
    "seen_volumes",
]
