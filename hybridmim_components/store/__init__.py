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

"""Prepared stores of volumes that are pre-processed once. Pre-training reads only the crops that it draws."""

from __future__ import annotations

from hybridmim_components.store.dataset import StoreDataset
from hybridmim_components.store.index import PreparedStore, open_store
from hybridmim_components.store.prepare_folders import prepare_store
from hybridmim_components.store.selection import StoredPool, StoredVolumes, open_pool
from hybridmim_components.store.settings import StoreSettings

__all__ = [
    "PreparedStore",
    "StoreDataset",
    "StoreSettings",
    "StoredPool",
    "StoredVolumes",
    "open_pool",
    "open_store",
    "prepare_store",
]
