# SPDX-License-Identifier: Apache-2.0

"""Data loader that can begin at any step. Its items depend only on the seed and on their place in the run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import ignite.distributed as idist
import torch
from monai.data import DataLoader, DistributedSampler
from monai.transforms import Randomizable
from torch.utils.data import Dataset, Sampler

from hybridmim_components.data.volumes import image_files
from hybridmim_components.system.errors import VolumeError, reason_of, root_cause
from hybridmim_components.system.seeds import seed_of
from hybridmim_components.system.stop_signals import held_back, stop_with_parent_only

__all__ = ["SeededLoader"]

logger = logging.getLogger(__name__)


class SeededLoader(DataLoader):
    """MONAI's DataLoader with an order and random transforms that a resumed run repeats.

    For training, an epoch is a number of steps, however many items there are. The loader passes through the items again
    and again, each time in a new order. Neither the number of workers nor what was loaded before changes the items.
    Each item gets ``case``, the files of its image, so that an error can name them.

    Args:
        dataset: data set of items with ``image``. The data set or its transform is seeded for each item.
        batch_size: items per batch and process.
        seed: seed of the run.
        steps: batches of an epoch, for training. None: each item once in the order of the data set, for validation.
        skip_unreadable: log an item that fails and replace it, instead of raising. Items that the batch does not have
            yet are tried first.
        kwargs: further arguments of ``monai.data.DataLoader``.

    Raises:
        ValueError: when ``steps`` is below 1.

    Example:
        >>> from monai.data import Dataset
        >>> items = Dataset([{"image": number} for number in range(5)])
        >>> loader = SeededLoader(items, batch_size=2, seed=0, steps=3)
        >>> epoch = [batch["image"].tolist() for batch in loader]
        >>> loader.begin(epoch=1, batch=2)
        >>> [batch["image"].tolist() for batch in loader] == epoch[2:]
        True
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int = 0,
        steps: int | None = None,
        skip_unreadable: bool = False,
        **kwargs: Any,
    ) -> None:
        processes, rank = idist.get_world_size(), idist.get_rank()
        self.passes: _Passes | None = None
        sampler: Any = None
        if steps is not None:
            if steps < 1:
                raise ValueError(f"steps_per_epoch must be at least 1, got {steps}")
            self.passes = sampler = _Passes(len(dataset), batch_size, steps, seed, processes, rank)  # type: ignore[arg-type]
        elif processes > 1:
            sampler = DistributedSampler(dataset, False, processes, rank, shuffle=False)
        # its own generator, so that making an iterator takes no number from torch's global one
        generator = torch.Generator().manual_seed(seed)
        super().__init__(
            _SeededItems(dataset, seed, self.passes, skip_unreadable),
            batch_size=batch_size,
            sampler=sampler,
            generator=generator,
            worker_init_fn=stop_with_parent_only,
            **kwargs,
        )

    def begin(self, epoch: int, batch: int = 0) -> None:
        """Set where the next training iterator begins.

        Args:
            epoch: number of the epoch, from 1.
            batch: number of batches of the epoch to skip.
        """
        if self.passes is not None:
            self.passes.epoch, self.passes.start = epoch, batch

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield batches.

        Raises:
            VolumeError: when a volume cannot be used; names it.
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


class _Passes(Sampler[int]):
    """Sampler of the places of one epoch and one rank in an endless sequence of passes through the items.

    If there are enough items, a pass leaves out those that do not fill a batch of all ranks. Then no batch holds an
    item twice, which matters because crops of one volume are not negatives of each other.
    """

    def __init__(self, items: int, batch_size: int, steps: int, seed: int, processes: int, rank: int) -> None:
        self.batch_size, self.steps, self.seed = batch_size, steps, seed
        self.processes, self.rank = processes, rank
        self.items = items
        self.pass_length = max(items - items % (batch_size * processes), min(items, batch_size * processes))
        self.epoch, self.start = 1, 0
        self._order: tuple[int, list[int]] = (-1, [])

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def __iter__(self) -> Iterator[int]:
        for step in range((self.epoch - 1) * self.steps + self.start, self.epoch * self.steps):
            first = (step * self.processes + self.rank) * self.batch_size
            yield from range(first, first + self.batch_size)

    def item(self, place: int) -> int:
        """Return the item at a place of the sequence."""
        number, position = divmod(place, self.pass_length)
        if self._order[0] != number:
            generator = torch.Generator().manual_seed(seed_of(self.seed, number))
            self._order = (number, torch.randperm(self.items, generator=generator).tolist())
        return self._order[1][position]


class _SeededItems(Dataset):
    """Items of a data set by their places in the run. The transform is seeded anew for each item."""

    def __init__(self, dataset: Dataset, seed: int, passes: _Passes | None, skip_unreadable: bool) -> None:
        self.dataset, self.seed, self.passes, self.skip_unreadable = dataset, seed, passes, skip_unreadable

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitems__(self, places: list[int]) -> list[Any]:
        """Return the items of a batch, as torch asks for them."""
        indices = [self.passes.item(place) if self.passes else place for place in places]
        taken = set(indices)
        return [self._item_or_another(index, place, taken) for index, place in zip(indices, places, strict=True)]

    def _item_or_another(self, index: int, place: int, taken: set[int]) -> Any:
        # lazily, since there may be 100,000 others, and none is needed if the item is fine
        new = (other for other in self._others(index) if other not in taken)
        again = (other for other in self._others(index) if other in taken)
        for candidate in chain([index], new, again):
            try:
                item = self._item(candidate, place)
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

    def _item(self, index: int, place: int) -> Any:
        # a data set that draws random numbers itself, such as that of a store, seeds its transform too
        random = self.dataset if isinstance(self.dataset, Randomizable) else getattr(self.dataset, "transform", None)
        if isinstance(random, Randomizable):
            random.set_random_state(seed=seed_of(self.seed, place))
        name = self._name(index)
        try:
            item = self.dataset[index]
        except Exception as error:  # each reader and transform has its own exceptions
            raise VolumeError(f"cannot use {name}: {reason_of(root_cause(error))}") from error
        for part in item if isinstance(item, list) else [item]:
            part["case"] = name
        return item

    def _name(self, index: int) -> str:
        item = getattr(self.dataset, "data", {index: {}})[index]
        image = item.get("image", f"item {index}") if isinstance(item, Mapping) else f"item {index}"
        return ", ".join(image_files(image)) if isinstance(image, (str, list, tuple)) else f"item {index}"
