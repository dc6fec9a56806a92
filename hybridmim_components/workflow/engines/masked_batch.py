# SPDX-License-Identifier: Apache-2.0

"""Preparation of a batch for pre-training: crops, masks and the partial region."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.engines import PrepareBatch
from torch import Tensor

from hybridmim_components.method.masking import MaskGrid, sample_mask
from hybridmim_components.method.partial_region import Region, choose_region, full_region, subvolume_content

__all__ = ["FixedMaskBatch", "MaskedBatch"]

Batch = tuple[Tensor, dict[str, Any], tuple[Tensor, Region], dict[str, Any]]


class MaskedBatch(PrepareBatch):
    """Batch preparation that draws new masks and a new partial region for each training batch.

    Args:
        grid: sub-volumes and patches of the crops.
        mask_ratio: share of masked patches.
        mask_strategy: see :func:`.masking.sample_mask`.
        region: see :func:`.partial_region.choose_region`.
        generator: source of randomness; default: torch's global generator, see :class:`.handlers.SeededSteps`.

    Raises:
        ValueError: when a setting is out of range.

    Example:
        >>> prepare = MaskedBatch(MaskGrid(16, 8, 4), mask_ratio=0.25)
        >>> batch = {"image": torch.rand(2, 1, 16, 16, 16)}
        >>> image, targets, (mask, region), _ = prepare(batch)
        >>> mask.shape, mask.sum((1, 2)).tolist()
        (torch.Size([2, 8, 8]), [16, 16])
        >>> torch.equal(mask, prepare(batch)[1]["mask"])
        False
    """

    def __init__(
        self,
        grid: MaskGrid,
        mask_ratio: float = 0.4,
        mask_strategy: str = "hierarchical",
        region: str = "random",
        generator: torch.Generator | None = None,
    ) -> None:
        self.grid = grid
        self.mask_ratio = mask_ratio
        self.mask_strategy = mask_strategy
        self.region = region
        self.generator = generator or torch.default_generator
        # try the settings now, so that a wrong one fails before the first batch
        sample_mask(grid, 1, mask_ratio, mask_strategy, torch.Generator())
        choose_region(grid, region, torch.Generator(), torch.zeros(grid.subvolume_grid))

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> Batch:
        """Prepare one batch.

        Args:
            batchdata: ``image`` (B, C, *image_size) and, optionally, ``volume`` (B,).
            device: device to copy the crops to.
            non_blocking: whether the copy may be asynchronous.
            kwargs: further arguments of ``Tensor.to``.

        Returns:
            Crops; targets of the loss (``image``, ``mask``, ``region``, ``volume``); positional arguments of the
            network (mask, region); keyword arguments of the network (none).
        """
        image = batchdata["image"]
        # metadata slows down every operation and has no use after cropping
        image = image.as_tensor() if isinstance(image, MetaTensor) else image
        image = image.to(device, non_blocking=non_blocking, **kwargs)
        volume = batchdata.get("volume")
        mask = self._mask(len(image), volume).to(image.device, non_blocking=non_blocking)
        region = self._region(image)
        return image, {"image": image, "mask": mask, "region": region, "volume": volume}, (mask, region), {}

    def _mask(self, batch_size: int, volume: Tensor | None) -> Tensor:
        return sample_mask(self.grid, batch_size, self.mask_ratio, self.mask_strategy, self.generator)

    def _region(self, image: Tensor) -> Region:
        content = subvolume_content(image, self.grid) if self.region == "content" else None
        return choose_region(self.grid, self.region, self.generator, content)


class FixedMaskBatch(MaskedBatch):
    """Batch preparation that gives a volume the same mask at every validation; the region is the whole crop.

    The arguments are those of :class:`MaskedBatch`, with ``seed`` in place of ``region`` and ``generator``.

    Example:
        >>> prepare = FixedMaskBatch(MaskGrid(16, 8, 4))
        >>> batch = {"image": torch.rand(2, 1, 16, 16, 16), "volume": torch.tensor([4, 9])}
        >>> first, second = [prepare(batch)[1]["mask"] for _ in range(2)]
        >>> torch.equal(first, second), torch.equal(first[0], first[1])
        (True, False)
    """

    def __init__(
        self, grid: MaskGrid, mask_ratio: float = 0.4, mask_strategy: str = "hierarchical", seed: int = 0
    ) -> None:
        super().__init__(grid, mask_ratio, mask_strategy, "full")
        self.seed = seed

    def _mask(self, batch_size: int, volume: Tensor | None) -> Tensor:
        numbers = range(batch_size) if volume is None else volume.tolist()
        masks = [self._mask_of(int(number)) for number in numbers]
        return torch.cat(masks)

    def _mask_of(self, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        return sample_mask(self.grid, 1, self.mask_ratio, self.mask_strategy, generator)

    def _region(self, image: Tensor) -> Region:
        return full_region(self.grid)
