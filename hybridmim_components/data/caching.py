# SPDX-License-Identifier: Apache-2.0

"""Caches of pre-processed volumes between epochs: the setting ``cache`` of the configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import CacheDataset, Dataset
from monai.transforms import Compose, Cropd, Padd, RandCropByPosNegLabeld, RandomizableTrait

from hybridmim_components.data.counted_crops import COUNTED_CROPS
from hybridmim_components.data.disk_cache import DiskCache

__all__ = ["CACHES", "make_dataset"]

CACHES = ("none", "memory", "disk", "store")
_CROPS_AND_PADS = (Cropd, Padd, RandCropByPosNegLabeld)


def make_dataset(
    data: Sequence[Mapping[str, Any]],
    transform: Compose,
    cache: str = "memory",
    cache_dir: str | Path | None = None,
    num_workers: int = 0,
    roi_size: Sequence[int] | None = None,
    crops_per_volume: int | None = None,
) -> Dataset:
    """Make a data set that runs the random transforms each time and caches the result of the deterministic ones.

    Args:
        data: items to load.
        transform: deterministic transforms first, then random ones.
        cache: ``none``: load anew each time; ``memory``: keep in RAM; ``disk``: keep in ``cache_dir``, for all runs
            with the same pre-processing; ``store``: read crops from a prepared store.
        cache_dir: folder of ``disk``.
        num_workers: threads that fill the memory cache.
        roi_size: size of a crop of ``store`` in voxels. ``store`` crops and pads by itself, and then runs only those
            transforms that follow the last crop or pad.
        crops_per_volume: number of random crops of ``store``; None: one crop in the middle of the foreground.

    Returns:
        MONAI's Dataset or CacheDataset, a DiskCache, or what :meth:`.store.StoredVolumes.read_crops` returns.

    Raises:
        ValueError: when ``cache`` is unknown, when ``disk`` has no folder, or when ``store`` has no volumes of a store,
            no ``roi_size``, or a random transform before the crop.

    Example:
        >>> read = Lambdad("image", lambda path: print("reading", path) or torch.ones(1))
        >>> dataset = make_dataset([{"image": "scan.nii"}], Compose([read]), cache="memory")
        reading scan.nii
        >>> [dataset[0]["image"].item() for _ in range(2)]
        [1.0, 1.0]
    """
    if cache not in CACHES:
        raise ValueError(f"cache must be one of {CACHES}, got {cache!r}")
    if cache == "store":
        read_crops = getattr(data, "read_crops", None)
        if read_crops is None or roi_size is None:
            raise ValueError("cache 'store' is for pre-training from a prepared store: fine-tuning needs another cache")
        crops: Dataset = read_crops(roi_size, crops_per_volume, _after_crops(transform))
        return crops
    if cache == "none":
        return Dataset(data, transform)
    if cache == "memory":
        # it copies a whole volume per draw, which counted crops do not need, since they are copies
        copy_cache = not isinstance(_first_random(transform), COUNTED_CROPS)
        return CacheDataset(data, transform, num_workers=max(1, num_workers), copy_cache=copy_cache, progress=False)
    if cache_dir is None:
        raise ValueError("cache 'disk' needs cache_dir, got None")
    return DiskCache(data, transform, cache_dir)


def _first_random(transform: Compose) -> Any:
    return next((step for step in transform.transforms if isinstance(step, RandomizableTrait)), None)


def _after_crops(transform: Compose) -> Compose | None:
    """Return the transforms after the last crop or pad. Earlier ones cannot run where only crops are read."""
    steps = list(transform.transforms)
    last = max((i for i, step in enumerate(steps) if isinstance(step, _CROPS_AND_PADS)), default=-1)
    early = [s for s in steps[:last] if isinstance(s, RandomizableTrait) and not isinstance(s, _CROPS_AND_PADS)]
    if early:
        raise ValueError(f"cache 'store' needs random transforms after the crop, got {type(early[0]).__name__} before")
    return Compose(steps[last + 1 :]) if steps[last + 1 :] else None
