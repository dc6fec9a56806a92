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

"""Data sets, splits, unlabelled volumes and caches."""

from __future__ import annotations

from hybridmim_components.data.caching import CACHES, make_dataset
from hybridmim_components.data.case_lists import finetuning_lists, pretraining_lists
from hybridmim_components.data.counted_crops import CountedCropByLabelClassesd, CountedCropByPosNegLabeld, PlaneCountsd
from hybridmim_components.data.datasets import DATASETS, find_cases, read_cases
from hybridmim_components.data.inspection import inspect_volumes
from hybridmim_components.data.seeded_loader import SeededLoader
from hybridmim_components.data.splits import split_cases
from hybridmim_components.data.unlabelled import find_volumes
from hybridmim_components.data.volumes import VolumeRules, fingerprint, read_volume

__all__ = [
    "CACHES",
    "DATASETS",
    "CountedCropByLabelClassesd",
    "CountedCropByPosNegLabeld",
    "PlaneCountsd",
    "SeededLoader",
    "VolumeRules",
    "find_cases",
    "find_volumes",
    "fingerprint",
    "finetuning_lists",
    "inspect_volumes",
    "make_dataset",
    "pretraining_lists",
    "read_cases",
    "read_volume",
    "split_cases",
]
