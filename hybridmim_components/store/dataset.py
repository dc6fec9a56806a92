# SPDX-License-Identifier: Apache-2.0

"""Crops read directly from a store: random foreground crops for training, one central crop for validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hybridmim_components.data.lazy_crops import LazyCrops
from hybridmim_components.store.encoding import CHUNK, chunk_grid
from hybridmim_components.store.shards import ShardReader, open_shard

if TYPE_CHECKING:
    from hybridmim_components.store.selection import StoredVolumes

__all__ = ["StoreDataset"]

Place = list[int]


class StoreDataset(LazyCrops):
    """Data set of crops that reads only the chunks of a volume that a crop touches.

    A random crop is centred on a foreground voxel. All foreground voxels have the same probability. A crop that
    would leave the volume is moved into it, as ``RandCropByPosNegLabeld`` of the bundles does on the whole image. The
    crop for validation is that of ``CropForegroundd`` and ``CenterSpatialCropd``. Smaller volumes are padded with
    background.

    Args:
        data: volumes of a store.
        roi_size: size of a crop in voxels.
        crops_per_volume: number of random crops of each volume; None: one crop in the middle of its foreground.
        transform: applied to each crop.

    Example:
        >>> from hybridmim_components.phantoms import write_unlabelled
        >>> from hybridmim_components.store import StoreSettings, open_pool, prepare_store
        >>> _ = write_unlabelled("volumes", 2, size=(16, 16, 16))
        >>> settings = {"spacing": (3, 3, 4), "intensity_range": (-57, 164)}
        >>> _ = prepare_store("volumes", "store", StoreSettings(**settings), num_workers=0)
        >>> training, _, _ = open_pool("store", val_fraction=0.5, split_seed=0, **settings).split(without=[])
        >>> crops = StoreDataset(training, roi_size=(8, 8, 8), crops_per_volume=3)
        >>> len(crops), [tuple(crop["image"].shape) for crop in crops[0]]
        (1, [(1, 8, 8, 8), (1, 8, 8, 8), (1, 8, 8, 8)])
    """

    data: StoredVolumes

    def __getitem__(self, index: int) -> dict[str, Any] | list[dict[str, Any]]:
        """Read the crops of a volume.

        Returns:
            A list of ``crops_per_volume`` crops, or one crop if that is None. Each crop has ``image`` (C, *roi_size),
            float32, which is the input of the network, and ``volume``.

        Raises:
            ValueError: when the stored volume is missing or damaged.
        """
        item = self.data[index]
        store, row = self.data.store, item["row"]
        entry = store.rows[row]
        with open_shard(store.place, entry["name"].decode(), entry["shape"], store.settings.background) as shard:
            if self.crops_per_volume is None:
                return self._item(shard, item, *_middle(entry["box"].tolist(), self.roi_size))
            shape = entry["shape"].tolist()
            starts = [self._draw(shard, shape, store.foreground(row)) for _ in range(self.crops_per_volume)]
            size = [min(pair) for pair in zip(shape[1:], self.roi_size, strict=True)]
            return [self._item(shard, item, start, size) for start in starts]

    def _draw(self, shard: ShardReader, shape: Place, counts: np.ndarray) -> Place:
        """Draw the first voxel of a crop around a foreground voxel: first its chunk by the counts, then the voxel."""
        background = self.data.store.settings.background
        ends = np.cumsum(counts, dtype=np.int64)
        drawn = self.R.randint(int(ends[-1]))
        chunk = int(np.searchsorted(ends, drawn, side="right"))
        cell = np.unravel_index(chunk, chunk_grid(shape)[1:])
        corner = [int(c) * CHUNK for c in cell]
        extent = [min(CHUNK, size - first) for size, first in zip(shape[1:], corner, strict=True)]
        voxels = np.empty((shape[0], *extent), np.int16)
        shard.read_box(corner, voxels)
        hits = np.flatnonzero((voxels != background).any(axis=0))
        within = np.unravel_index(hits[drawn - int(ends[chunk]) + int(counts[chunk])], extent)
        centre = [first + int(at) for first, at in zip(corner, within, strict=True)]
        limits = [max(0, size - roi) for size, roi in zip(shape[1:], self.roi_size, strict=True)]
        return [min(max(c - roi // 2, 0), m) for c, roi, m in zip(centre, self.roi_size, limits, strict=True)]

    def _item(self, shard: ShardReader, item: dict[str, Any], start: Place, size: Place) -> dict[str, Any]:
        settings = self.data.store.settings
        crop = np.empty((settings.channels, *size), np.int16)
        shard.read_box(start, crop)
        image = torch.from_numpy(crop).float().sub_(settings.background).mul_(settings.scale)
        if tuple(size) != self.roi_size:
            image = _padded(image, self.roi_size)
        result = {"image": image, "volume": item["volume"]}
        return self.transformed(result)


def _middle(box: Sequence[Place], roi_size: Sequence[int]) -> tuple[Place, Place]:
    """Return first voxel and size of the crop in the middle of a box. It is no larger than the box."""
    extents = [high - low for low, high in zip(*box, strict=True)]
    starts = [max(0, extent // 2 - roi // 2) for extent, roi in zip(extents, roi_size, strict=True)]
    size = [min(roi, extent - s) for roi, extent, s in zip(roi_size, extents, starts, strict=True)]
    return [low + s for low, s in zip(box[0], starts, strict=True)], size


def _padded(image: torch.Tensor, roi_size: Sequence[int]) -> torch.Tensor:
    """Pad with zeros on both sides, as SpatialPadd does."""
    lacks = [roi - size for roi, size in zip(roi_size, image.shape[1:], strict=True)]
    widths = [width for lack in reversed(lacks) for width in (lack // 2, lack - lack // 2)]
    return torch.nn.functional.pad(image, widths)
