# SPDX-License-Identifier: Apache-2.0

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
