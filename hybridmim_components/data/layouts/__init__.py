# SPDX-License-Identifier: Apache-2.0

"""Layouts of the published data sets on disk: one file per layout, each with a function ``read``."""

from __future__ import annotations

from hybridmim_components.data.layouts import brats2020, btcv, dataset_json, msd
from hybridmim_components.data.layouts.find_cases import Case, Found, case_id_of, find_nifti, is_plain_name

__all__ = ["Case", "Found", "brats2020", "btcv", "case_id_of", "dataset_json", "find_nifti", "is_plain_name", "msd"]
