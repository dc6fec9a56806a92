# SPDX-License-Identifier: Apache-2.0

"""Selection of the volumes of a store that a pre-training run sees, without a Python object for each of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hybridmim_components.data.splits import hold_out
from hybridmim_components.data.volumes import Image, image_files
from hybridmim_components.store.dataset import StoreDataset
from hybridmim_components.store.encoding import METADATA
from hybridmim_components.store.index import ATTRIBUTE, PreparedStore, open_store
from hybridmim_components.store.prepare_volume import source_state, volume_name

__all__ = ["StoredPool", "StoredVolumes", "open_pool"]


class StoredVolumes(Sequence[dict[str, Any]]):
    """Volumes selected from a store, as items of a data set.

    An item has ``image``, the files that the volume came from, ``volume``, a number that follows from its voxels, and
    ``row``, its place in the index.

    Args:
        store: the store.
        rows: places in the index.

    Example:
        >>> from hybridmim_components.phantoms import write_unlabelled
        >>> from hybridmim_components.store import StoreSettings, prepare_store
        >>> _ = write_unlabelled("volumes", 3, size=(16, 16, 16))
        >>> settings = {"spacing": (3, 3, 4), "intensity_range": (-57, 164)}
        >>> _ = prepare_store("volumes", "store", StoreSettings(**settings), num_workers=0)
        >>> volumes = StoredVolumes(open_store("store", **settings), np.arange(3))
        >>> sorted(file.rpartition("/")[2] for item in volumes for file in item["image"])
        ['phantom_1.nii.gz', 'phantom_2.nii.gz', 'phantom_3.nii.gz']
        >>> len(volumes[:2]), len(volumes.fingerprints())
        (2, 3)
    """

    def __init__(self, store: PreparedStore, rows: np.ndarray) -> None:
        self.store = store
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return StoredVolumes(self.store, self.rows[index])
        number = int(self.rows[index])
        row = self.store.rows[number]
        volume = int(row["fingerprints"][0][:12], 16)
        return {"image": row["source"].decode().split("\n"), "volume": volume, "row": number}

    def fingerprints(self) -> set[str]:
        """Return the fingerprints of all channels of all of these volumes."""
        return {digest.decode() for digest in self.store.rows["fingerprints"][self.rows].ravel().tolist()}

    def read_crops(
        self,
        roi_size: Sequence[int],
        crops_per_volume: int | None = None,
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> StoreDataset:
        """Return a data set of crops of these volumes. Arguments as in :class:`StoreDataset`."""
        return StoreDataset(self, roi_size, crops_per_volume, transform)


@dataclass(frozen=True)
class StoredPool:
    """Volumes of a store that pre-training may see, and how they are split.

    Attributes:
        store: the store.
        val_fraction: share of the volumes to validate pre-training on.
        split_seed: seed of the split.

    Example:
        >>> from hybridmim_components.phantoms import write_unlabelled
        >>> from hybridmim_components.store import StoreSettings, prepare_store
        >>> _ = write_unlabelled("volumes", 4, size=(16, 16, 16))
        >>> settings = {"spacing": (3, 3, 4), "intensity_range": (-57, 164)}
        >>> _ = prepare_store("volumes", "store", StoreSettings(**settings), num_workers=0)
        >>> pool = StoredPool(open_store("store", **settings), val_fraction=0.25, split_seed=0)
        >>> image = str(Path("volumes/phantom_1.nii.gz").resolve())
        >>> training, validation, left_out = pool.split(without=pool.known_fingerprints([image])[(image,)])
        >>> len(training), len(validation), left_out
        (2, 1, 1)
    """

    store: PreparedStore
    val_fraction: float
    split_seed: int

    def known_fingerprints(self, images: Iterable[Image]) -> dict[tuple[str, ...], list[str]]:
        """Return the fingerprints of images that the store was prepared from and whose files have not changed since.

        The keys are the files of each image. Other images are not among them and must be read.
        """
        names = {volume_name(image).encode(): image_files(image) for image in images}
        rows = np.flatnonzero(np.isin(self.store.rows["name"], list(names)))
        known = {}
        for row in self.store.rows[rows]:
            files = names[row["name"]]
            record = json.loads(self.store.place.read(f"{row['name'].decode()}/{METADATA}") or b"{}")
            if record and record["attributes"][ATTRIBUTE]["state"] == source_state(files):
                known[files] = [digest.decode() for digest in row["fingerprints"].tolist()]
        return known

    def split(self, without: Collection[str]) -> tuple[StoredVolumes, StoredVolumes, int]:
        """Split the volumes into training and validation, with each image once.

        Args:
            without: fingerprints. A volume is left out if one of its channels has one of them.

        Returns:
            Volumes to train on, volumes to validate on, and the number of those left out for ``without``.

        Raises:
            ValueError: when ``val_fraction`` is out of range, or fewer than 2 volumes are left.
        """
        digests = np.asarray(self.store.rows["fingerprints"])
        barred = np.isin(digests, [digest.encode() for digest in without]).any(axis=1)
        # the first of several copies stays, and images that share one modality count as copies
        _, first, inverse = np.unique(digests.ravel(), return_index=True, return_inverse=True)
        first_row = first[inverse.reshape(digests.shape)] // digests.shape[1]
        copies = (first_row < np.arange(len(digests))[:, None]).any(axis=1)
        rows = np.flatnonzero(~barred & ~copies)
        row_of = {digests[row, 0].decode(): row for row in rows}
        own = hold_out(list(row_of), self.val_fraction, self.split_seed)
        training, validation = (np.array([row_of[i] for i in ids], np.int64) for ids in own)
        return StoredVolumes(self.store, training), StoredVolumes(self.store, validation), int(barred.sum())


def open_pool(url: str | None, val_fraction: float, split_seed: int, **settings: Any) -> StoredPool:
    """Open a store for pre-training. Arguments as in :class:`StoredPool` and :func:`open_store`, which may raise.

    Example:
        >>> from hybridmim_components.phantoms import write_unlabelled_hippocampi
        >>> from hybridmim_components.store import StoreSettings, prepare_store
        >>> _ = write_unlabelled_hippocampi("volumes", 4, size=(16, 16, 16))
        >>> settings = {"spacing": (1, 1, 1), "clip_percentiles": (1, 99)}
        >>> prepare_store("volumes", "store", StoreSettings(**settings), num_workers=0)
        4
        >>> pool = open_pool("store", val_fraction=0.25, split_seed=0, **settings)
        >>> training, validation, left_out = pool.split(without=[])
        >>> len(training), len(validation), left_out
        (3, 1, 0)
    """
    return StoredPool(open_store(url, **settings), val_fraction, split_seed)
