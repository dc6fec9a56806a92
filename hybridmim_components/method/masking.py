# SPDX-License-Identifier: Apache-2.0

"""The two-level masks of HybridMIM: which sub-volumes contain masked patches, and which of their patches these are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

__all__ = ["MASK_STRATEGIES", "MaskGrid", "expand_mask", "num_masked_patches", "sample_mask"]

MASK_STRATEGIES = ("hierarchical", "uniform")


@dataclass(frozen=True)
class MaskGrid:
    """Division of a crop into sub-volumes and of each sub-volume into patches, all sizes in voxels.

    Sub-volumes and the patches of a sub-volume are numbered in C order of their grids (last axis fastest).

    Args:
        image_size: size of the crop per axis; an int means a cube. Any number of axes and anisotropic sizes work.
        subvolume_size: size of a sub-volume; must divide ``image_size`` on each axis.
        patch_size: size of a patch; must divide ``subvolume_size`` on each axis.

    Raises:
        ValueError: when a size is not positive, does not divide the larger one, or has the wrong number of axes.

    Example:
        >>> grid = MaskGrid((96, 96, 96), (32, 32, 32), (16, 16, 16))
        >>> grid.num_subvolumes, grid.num_patches
        (27, 8)
    """

    image_size: tuple[int, ...]
    subvolume_size: tuple[int, ...]
    patch_size: tuple[int, ...]

    def __init__(
        self, image_size: int | Sequence[int], subvolume_size: int | Sequence[int], patch_size: int | Sequence[int]
    ) -> None:
        image = (image_size,) * 3 if isinstance(image_size, int) else tuple(image_size)
        sizes = {"image_size": image}
        for name, value in (("subvolume_size", subvolume_size), ("patch_size", patch_size)):
            sizes[name] = (value,) * len(image) if isinstance(value, int) else tuple(value)
        for name, size in sizes.items():
            if len(size) != len(image) or not all(isinstance(n, int) and n > 0 for n in size):
                raise ValueError(f"{name} must hold {len(image)} positive integers, one per axis, got {size}")
            object.__setattr__(self, name, size)
        for outer, inner in (("image_size", "subvolume_size"), ("subvolume_size", "patch_size")):
            if any(o % i for o, i in zip(sizes[outer], sizes[inner], strict=True)):
                raise ValueError(f"{inner} must divide {outer} on every axis, got {sizes[inner]} and {sizes[outer]}")

    @property
    def subvolume_grid(self) -> tuple[int, ...]:
        """Number of sub-volumes per axis."""
        return tuple(i // s for i, s in zip(self.image_size, self.subvolume_size, strict=True))

    @property
    def patch_grid(self) -> tuple[int, ...]:
        """Number of patches of one sub-volume per axis."""
        return tuple(s // p for s, p in zip(self.subvolume_size, self.patch_size, strict=True))

    @property
    def num_subvolumes(self) -> int:
        """Number of sub-volumes of the crop, S."""
        return prod(self.subvolume_grid)

    @property
    def num_patches(self) -> int:
        """Number of patches of one sub-volume, P."""
        return prod(self.patch_grid)


def num_masked_patches(grid: MaskGrid, mask_ratio: float) -> int:
    """Return how many patches a mask of this ratio hides in every sample: ``round(mask_ratio * S * P)``.

    Raises:
        ValueError: when ``mask_ratio`` is outside (0, 1).

    Example:
        >>> num_masked_patches(MaskGrid(96, 32, 16), mask_ratio=0.4)
        86
    """
    if not 0 < mask_ratio < 1:
        raise ValueError(f"mask_ratio must be in (0, 1), got {mask_ratio}")
    return round(mask_ratio * grid.num_subvolumes * grid.num_patches)


def sample_mask(
    grid: MaskGrid,
    batch_size: int,
    mask_ratio: float = 0.4,
    strategy: str = "hierarchical",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw which patches of each sample are masked.

    ``hierarchical`` follows the paper (section 3.1): it draws the sub-volumes that contain masked patches, then the
    number of masked patches (1..P) in each of them, then the patches. ``uniform`` follows the released code: it draws
    patches from the whole crop. With either strategy, each sample has exactly ``round(mask_ratio * S * P)`` masked
    patches.

    Args:
        grid: sub-volumes and patches of the crop.
        batch_size: number of samples, B.
        mask_ratio: share of masked patches, in (0, 1).
        strategy: ``hierarchical`` or ``uniform``.
        generator: source of randomness, which also decides the device. The same state gives the same mask.

    Returns:
        Boolean tensor (B, S, P), True where a patch is masked.

    Raises:
        ValueError: when ``mask_ratio``, ``strategy`` or ``batch_size`` is out of range.

    Example:
        >>> mask = sample_mask(MaskGrid(96, 32, 16), batch_size=2, mask_ratio=0.4)
        >>> mask.shape, mask.sum((1, 2)).tolist()
        (torch.Size([2, 27, 8]), [86, 86])
    """
    total = num_masked_patches(grid, mask_ratio)
    if strategy not in MASK_STRATEGIES:
        raise ValueError(f"mask_strategy must be one of {MASK_STRATEGIES}, got {strategy!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    device = generator.device if generator is not None else torch.device("cpu")
    shape = (batch_size, grid.num_subvolumes, grid.num_patches)
    scores = torch.rand(shape, generator=generator, device=device)
    if strategy == "uniform":
        return (_rank(scores.flatten(1)) < total).view(shape)
    counts = _hierarchical_counts(grid, batch_size, total, generator, device)
    return _rank(scores) < counts.unsqueeze(-1)


def expand_mask(mask: Tensor, grid: MaskGrid) -> Tensor:
    """Expand a mask of patches to a mask of voxels.

    Args:
        mask: boolean (B, S, P), see :func:`sample_mask`.
        grid: the grid that the mask was drawn for.

    Returns:
        Boolean tensor (B, 1, *image_size), True where a voxel is masked.

    Raises:
        ValueError: when the mask's shape does not fit the grid.

    Example:
        >>> first_of_eight = torch.arange(8).view(1, 1, 8) == 0
        >>> expand_mask(first_of_eight, MaskGrid(4, 4, 2))[0, 0, :, :, 0].int()
        tensor([[1, 1, 0, 0],
                [1, 1, 0, 0],
                [0, 0, 0, 0],
                [0, 0, 0, 0]], dtype=torch.int32)
    """
    if mask.ndim != 3 or mask.shape[1:] != (grid.num_subvolumes, grid.num_patches):
        raise ValueError(
            f"mask must have the shape (B, {grid.num_subvolumes}, {grid.num_patches}), got {tuple(mask.shape)}"
        )
    dims = len(grid.image_size)
    blocks = mask.reshape(-1, *grid.subvolume_grid, *grid.patch_grid)
    # (B, s1, .., sn, p1, .., pn) -> (B, s1, p1, .., sn, pn), so that patches lie inside their sub-volumes
    order = [0] + [axis for d in range(dims) for axis in (1 + d, 1 + dims + d)]
    patches = [s * p for s, p in zip(grid.subvolume_grid, grid.patch_grid, strict=True)]
    voxels = blocks.permute(order).reshape(-1, 1, *patches)
    for d, size in enumerate(grid.patch_size):
        voxels = voxels.repeat_interleave(size, dim=2 + d)
    return voxels


def _rank(scores: Tensor) -> Tensor:
    """Return the rank of each entry along the last axis, 0 for the smallest."""
    return scores.argsort(dim=-1).argsort(dim=-1)


def _hierarchical_counts(
    grid: MaskGrid, batch_size: int, total: int, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Draw the number of masked patches per sub-volume, (B, S), each row summing to ``total``."""
    num_subvolumes, num_patches = grid.num_subvolumes, grid.num_patches

    def draw(low: Tensor, high: Tensor) -> Tensor:
        uniform = torch.rand(low.shape, generator=generator, device=device, dtype=torch.float64)
        return low + (uniform * (high - low + 1)).long()

    fewest = torch.full((batch_size,), -(-total // num_patches), device=device)
    chosen = draw(fewest, torch.full_like(fewest, min(num_subvolumes, total)))
    remaining = torch.full_like(chosen, total)
    counts = torch.zeros(batch_size, num_subvolumes, dtype=torch.long, device=device)
    for i in range(num_subvolumes):
        others = (chosen - i - 1).clamp(min=0)
        low = (remaining - others * num_patches).clamp(min=1)
        high = (remaining - others).clamp(max=num_patches)
        counts[:, i] = torch.where(i < chosen, draw(low, high.maximum(low)), 0)
        remaining = remaining - counts[:, i]
    # the bounds tighten towards the last draw; a random order gives every sub-volume the same distribution
    order = torch.rand(counts.shape, generator=generator, device=device).argsort(dim=-1)
    return counts.gather(1, order)
