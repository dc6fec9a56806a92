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

"""A data loader whose items depend on the seed, the epoch and the item alone, and that can begin amid an epoch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any

import ignite.distributed as idist
import torch
from monai.data import DataLoader, DistributedSampler
from monai.transforms import Randomizable
from torch.utils.data import Dataset
from torch.utils.data import DistributedSampler as TorchDistributedSampler

from hybridmim_components.data.volumes import image_files
from hybridmim_components.errors import VolumeError, reason_of, root_cause
from hybridmim_components.seeds import seed_of
from hybridmim_components.stop_signals import heed_the_parent_alone, held_back

__all__ = ["SeededLoader"]

logger = logging.getLogger(__name__)


class SeededLoader(DataLoader):
    """MONAI's DataLoader for training, in an order and with random transforms that a resumed run repeats.

    It does not matter how many workers load, nor what was loaded before. In a multi-process run each rank has a share
    of the items. Each item gets ``case``, the files of its image, so that an error can name them.

    Args:
        dataset: a data set of items with ``image``; it, or its transform, is seeded for each item.
        batch_size: items per batch and process.
        seed: seed of the run.
        shuffle: a new order in each epoch; in a multi-process run the items are padded to equal shares. Else the order
            of the data set and, as a validation wants it, each item once.
        skip_unreadable: log an item that fails and take another in its place, one that the batch does not have if there
            is any, instead of raising.
        kwargs: further arguments of ``monai.data.DataLoader``.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        skip_unreadable: bool = False,
        **kwargs: Any,
    ) -> None:
        processes, rank = idist.get_world_size(), idist.get_rank()
        self.order: Any = None
        if shuffle:
            self.order = _SamplerFrom(dataset, processes, rank, shuffle=True)
        elif processes > 1:
            self.order = DistributedSampler(dataset, False, processes, rank, shuffle=False)
        self.items = _SeededItems(dataset, seed, skip_unreadable)
        # of its own, so that making an iterator takes no number from torch's global one
        generator = torch.Generator().manual_seed(seed)
        super().__init__(
            self.items,
            batch_size=batch_size,
            sampler=self.order,
            generator=generator,
            worker_init_fn=heed_the_parent_alone,
            **kwargs,
        )
        self.begin(1)

    def begin(self, epoch: int, batch: int = 0) -> None:
        """Set what the next iterator yields.

        Args:
            epoch: from 1.
            batch: number of batches of the epoch to leave out.
        """
        self.items.epoch = epoch
        if not isinstance(self.order, _SamplerFrom):
            return
        # torch adds seed and epoch, so that one seed's second epoch would be the next seed's first
        self.order.set_epoch(seed_of(self.items.seed, epoch))
        self.order.start = batch * (self.batch_size or 1)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield batches.

        Raises:
            VolumeError: names a volume that cannot be used.
            ChildProcessError: when a worker process has died.
        """
        try:
            with held_back():  # the workers are forked here
                batches = super().__iter__()
            yield from batches
        except RuntimeError as error:
            if "DataLoader worker" not in str(error) or isinstance(error, VolumeError):
                raise
            raise ChildProcessError(
                f"a process that loads data has died, perhaps for want of memory: lower num_workers ({error})"
            ) from error


class _SamplerFrom(TorchDistributedSampler):
    """From an item on; torch's own sampler, which for one process is a plain shuffle."""

    start = 0

    def __iter__(self) -> Iterator[int]:
        return islice(super().__iter__(), self.start, None)


class _SeededItems(Dataset):
    """Items of a data set, the transform seeded anew for each."""

    def __init__(self, dataset: Dataset, seed: int, skip_unreadable: bool) -> None:
        self.dataset, self.seed, self.skip_unreadable = dataset, seed, skip_unreadable
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """The items of a batch, as torch asks for them."""
        taken = set(indices)
        return [self._item_or_another(index, taken) for index in indices]

    def _item_or_another(self, index: int, taken: set[int]) -> Any:
        # lazily: there may be 100,000 others, and none is needed where the item is fine
        new = (other for other in self._others(index) if other not in taken)
        again = (other for other in self._others(index) if other in taken)
        for candidate in chain([index], new, again):
            try:
                item = self._item(candidate)
            except VolumeError as error:
                if not self.skip_unreadable:
                    raise
                logger.warning("Skipped: %s", error)
                continue
            taken.add(candidate)
            return item
        raise VolumeError("none of the volumes can be used any more")

    def _others(self, index: int) -> Iterator[int]:
        return ((index + offset) % len(self) for offset in range(1, len(self)))

    def _item(self, index: int) -> Any:
        # a data set that draws by itself, such as that of a store, seeds its transform too
        random = self.dataset if isinstance(self.dataset, Randomizable) else getattr(self.dataset, "transform", None)
        if isinstance(random, Randomizable):
            random.set_random_state(seed=seed_of(self.seed, self.epoch, index))
        name = self._name(index)
        try:
            item = self.dataset[index]
        except Exception as error:  # each reader and transform has its own
            raise VolumeError(f"cannot use {name}: {reason_of(root_cause(error))}") from error
        for part in item if isinstance(item, list) else [item]:
            part["case"] = name
        return item

    def _name(self, index: int) -> str:
        item = getattr(self.dataset, "data", {index: {}})[index]
        image = item.get("image", f"item {index}") if isinstance(item, Mapping) else f"item {index}"
        return ", ".join(image_files(image)) if isinstance(image, (str, list, tuple)) else f"item {index}"
