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

"""Weights with the recipe that made them: saving, reading, checking, and moving into a segmentation network."""

from __future__ import annotations

from hybridmim_components.weights.saving import (
    find_weights,
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
    "find_weights",
    "how_to_get_weights",
    "load_pretrained",
    "read_recipe",
    "read_weights",
    "recipe_differences",
    "save_weights",
    "seen_volumes",
]
