# SPDX-License-Identifier: Apache-2.0

"""Cache of pre-processed volumes on disk, shared by all folds, fractions and runs with the same pre-processing."""

from __future__ import annotations

import hashlib
import logging
import pickle
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from monai.data import PersistentDataset
from monai.data.utils import pickle_hashing
from monai.transforms import Compose
from monai.utils import convert_to_tensor

from hybridmim_components.system.files import file_state, save_tensors

__all__ = ["DiskCache", "hash_item"]

logger = logging.getLogger(__name__)


class DiskCache(PersistentDataset):
    """MONAI's PersistentDataset, made safe for several runs at once and reading only the voxels that are needed.

    An entry belongs to an item, the state of its files and the deterministic transforms. MONAI moves an entry into its
    place, and across file systems another run can find half of it and stop. Here, an entry is either complete or
    absent, and a truncated one is made anew. An item has the same plain tensors whether or not it was cached, so that
    both kinds fit into one batch. Entries are mapped into memory, so that a crop reads only its own pages. If an entry
    cannot be written, the run goes on without it.

    Args:
        data: items to load.
        transform: deterministic transforms first, then random ones. A copy is used.
        cache_dir: folder of the entries, which is created if it is missing.
    """

    def __init__(self, data: Sequence[Mapping[str, Any]], transform: Compose, cache_dir: str | Path) -> None:
        # a copy, since MONAI's readers change when they read, and the next data set would hash them differently
        super().__init__(data, deepcopy(transform), cache_dir, hash_func=hash_item, hash_transform=pickle_hashing)
        self.folder = Path(cache_dir)
        self.told = False

    def _cachecheck(self, item_transformed: Mapping[str, Any]) -> dict[str, Any]:
        path = self.folder / f"{hash_item(item_transformed).decode()}{self.transform_hash}.pt"
        item = _read(path)
        if item is not None:
            return item
        new = self._pre_transform(deepcopy(item_transformed))
        item = convert_to_tensor(new, convert_numeric=False, track_meta=False)
        try:
            save_tensors(path, item)
        except OSError as error:
            if not self.told:
                logger.warning("The disk cache does not grow: %s", error)
            self.told = True
        return item


def _read(path: Path) -> dict[str, Any] | None:
    """Return an entry with its tensors mapped into memory, or None if there is no usable one."""
    try:
        return torch.load(path, weights_only=True, mmap=True)
    except FileNotFoundError:
        return None
    except (pickle.UnpicklingError, RuntimeError, EOFError):  # not written here, or truncated
        warnings.warn(f"Corrupt cache file, made anew: {path}", stacklevel=2)
        return None


def hash_item(item: Mapping[str, Any]) -> bytes:
    """Hash an item so that the hash changes with its files, and a replaced file is never served from the cache.

    Files count by their resolved paths, so that relative paths and links to the same data share entries.
    """
    parts = []
    for key in sorted(item):
        values = item[key] if isinstance(item[key], (list, tuple)) else [item[key]]
        for value in values:
            state = file_state(value) if isinstance(value, (str, Path)) else []
            parts.append((key, str(Path(value).resolve()) if state else str(value), state))
    return hashlib.sha256(repr(parts).encode()).hexdigest().encode()
