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


"""Layouts of the published data sets on disk: one file per layout, each with a function ``read``."""

from __future__ import annotations

from hybridmim_components.data.layouts import brats2020, btcv, dataset_json, msd
from hybridmim_components.data.layouts.find_cases import Case, Found, case_id_of, find_nifti, is_plain_name

__all__ = ["Case", "Found", "brats2020", "btcv", "case_id_of", "dataset_json", "find_nifti", "is_plain_name", "msd"]
