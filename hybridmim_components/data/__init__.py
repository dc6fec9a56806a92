# SPDX-License-Identifier: Apache-2.0

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
