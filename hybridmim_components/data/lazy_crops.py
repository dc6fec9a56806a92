# SPDX-License-Identifier: Apache-2.0

"""Base of the data sets that read crops of a volume instead of the whole volume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.transforms import Randomizable
from monai.utils import MAX_SEED, get_seed
from torch.utils.data import Dataset

__all__ = ["LazyCrops"]


class LazyCrops(Dataset, Randomizable):
    """Data set of crops; a subclass reads them in ``__getitem__``, and draws them by ``self.R``.

    Args:
        data: items, each with ``volume``.
        roi_size: size of a crop in voxels.
        crops_per_volume: number of random crops of each volume; None: one crop in its middle.
        transform: applied to each crop.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        roi_size: Sequence[int],
        crops_per_volume: int | None = None,
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.data = data
        self.roi_size = tuple(int(size) for size in roi_size)
        self.crops_per_volume = crops_per_volume
        self.transform = transform
        self.set_random_state(seed=get_seed())

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> LazyCrops:
        """Seed the crops, and also the transform if it is random."""
        super().set_random_state(seed, state)
        # always drawn, so that crops do not depend on the transform
        of_transform = int(self.R.randint(MAX_SEED, dtype="uint32"))
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed=of_transform)
        return self

    def __len__(self) -> int:
        return len(self.data)

    def transformed(self, crop: dict[str, Any]) -> dict[str, Any]:
        """Apply the transform, if there is one."""
        # no truth test, since that takes the length of a Compose, which flattens it and seeds it anew
        return crop if self.transform is None else self.transform(crop)
