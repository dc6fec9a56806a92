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

"""How pre-processed volumes are kept between epochs: the knob ``cache`` of the configs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import CacheDataset, Dataset, PersistentDataset
from monai.data.utils import pickle_hashing
from monai.transforms import Compose

from hybridmim_components.files import file_state

__all__ = ["CACHES", "make_dataset"]

CACHES = ("none", "memory", "disk")


def make_dataset(
    data: Sequence[Mapping[str, Any]],
    transform: Compose,
    cache: str = "memory",
    cache_dir: str | Path | None = None,
    num_workers: int = 0,
) -> Dataset:
    """A data set that runs the deterministic transforms once, and the random ones each time.

    Args:
        data: items to load.
        transform: deterministic transforms first, then random ones.
        cache: ``none``: load anew each time; ``memory``: keep in RAM; ``disk``: keep in ``cache_dir``, where several
            runs with the same pre-processing share what they find.
        cache_dir: folder of ``disk``.
        num_workers: threads that fill the memory cache.

    Returns:
        MONAI's Dataset, CacheDataset or PersistentDataset.

    Raises:
        ValueError: when ``cache`` is unknown, or ``disk`` has no folder.
    """
    if cache not in CACHES:
        raise ValueError(f"cache must be one of {CACHES}, got {cache!r}")
    if cache == "none":
        return Dataset(data, transform)
    if cache == "memory":
        return CacheDataset(data, transform, num_workers=max(1, num_workers), progress=False)
    if cache_dir is None:
        raise ValueError("cache 'disk' needs cache_dir, got None")
    return PersistentDataset(
        data, transform, cache_dir, hash_func=hash_item, hash_transform=pickle_hashing, track_meta=False
    )


def hash_item(item: Mapping[str, Any]) -> bytes:
    """Hash of an item that changes with the files it names, so that a replaced file is never served from the cache."""
    parts = []
    for key in sorted(item):
        values = item[key] if isinstance(item[key], (list, tuple)) else [item[key]]
        for value in values:
            parts.append((key, str(value), file_state(value) if isinstance(value, (str, Path)) else []))
    return hashlib.sha256(repr(parts).encode()).hexdigest().encode()
