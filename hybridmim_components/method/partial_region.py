# SPDX-License-Identifier: Apache-2.0

"""The part of a crop that the decoder reconstructs: partial region prediction (Xing et al., section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridmim_components.method.masking import MaskGrid

__all__ = ["REGIONS", "Region", "choose_region", "full_region", "split_subvolumes", "subvolume_content"]

REGIONS = ("random", "corner", "content", "full")


@dataclass(frozen=True)
class Region:
    """A box of whole sub-volumes inside a crop.

    Args:
        grid: the crop's grid.
        start: index of the first sub-volume per axis.
        size: number of sub-volumes per axis.

    Raises:
        ValueError: when the box does not lie inside the grid.

    Example:
        >>> region = Region(MaskGrid(96, 32, 16), start=(0, 1, 1), size=(2, 2, 2))
        >>> region.box
        (slice(0, 64, None), slice(32, 96, None), slice(32, 96, None))
        >>> region.crop(torch.zeros(1, 8, 12, 12, 12)).shape
        torch.Size([1, 8, 8, 8, 8])
    """

    grid: MaskGrid
    start: tuple[int, ...]
    size: tuple[int, ...]

    def __post_init__(self) -> None:
        inside = all(
            a >= 0 and n > 0 and a + n <= total
            for a, n, total in zip(self.start, self.size, self.grid.subvolume_grid, strict=True)
        )
        if not inside:
            raise ValueError(
                f"region must lie inside the {self.grid.subvolume_grid} sub-volumes, "
                f"got start {self.start} and size {self.size}"
            )

    def crop(self, feature: Tensor) -> Tensor:
        """Return a view of the region in a feature map (B, C, *spatial) of the whole crop, at any fitting resolution.

        Raises:
            ValueError: when the feature map does not divide into the sub-volumes.
        """
        slices = [slice(None), slice(None)]
        for axis, (start, size, total) in enumerate(zip(self.start, self.size, self.grid.subvolume_grid, strict=True)):
            step, rest = divmod(feature.shape[2 + axis], total)
            if rest or not step:
                raise ValueError(
                    f"a feature map must divide into {self.grid.subvolume_grid} sub-volumes, "
                    f"got the size {tuple(feature.shape[2:])}"
                )
            slices.append(slice(start * step, (start + size) * step))
        return feature[tuple(slices)]

    @property
    def box(self) -> tuple[slice, ...]:
        """The region in voxels of the crop, one slice per axis."""
        return tuple(
            slice(a * v, (a + n) * v) for a, n, v in zip(self.start, self.size, self.grid.subvolume_size, strict=True)
        )


def full_region(grid: MaskGrid) -> Region:
    """Return the region of the whole crop. With it, HybridMIM's pixel level is plain masked image modelling.

    Example:
        >>> full_region(MaskGrid(96, 32, 16)).size
        (3, 3, 3)
    """
    return Region(grid, (0,) * len(grid.image_size), grid.subvolume_grid)


def choose_region(
    grid: MaskGrid, position: str = "random", generator: torch.Generator | None = None, content: Tensor | None = None
) -> Region:
    """Choose where the partial region of one training step lies, for the whole batch.

    The region spans ``(2 n + 2) // 3`` of n sub-volumes per axis: 2 of 3 in the paper's grid, all of 1 or 2.

    Args:
        grid: the crop's grid.
        position: ``random``: anywhere, aligned to sub-volumes; ``corner``: the far corner, as in the released code;
            ``content``: where the sum of ``content`` is largest; ``full``: the whole crop.
        generator: source of randomness for ``random``.
        content: amount of foreground per sub-volume (*subvolume_grid), see :func:`subvolume_content`.

    Returns:
        The region.

    Raises:
        ValueError: when ``position`` is unknown, or is ``content`` and no content is given.

    Example:
        >>> choose_region(MaskGrid(96, 32, 16), "corner").start
        (1, 1, 1)
    """
    if position not in REGIONS:
        raise ValueError(f"region must be one of {REGIONS}, got {position!r}")
    if position == "full":
        return full_region(grid)
    size = tuple((2 * n + 2) // 3 for n in grid.subvolume_grid)
    free = [n - s for n, s in zip(grid.subvolume_grid, size, strict=True)]
    if position == "corner":
        return Region(grid, tuple(free), size)
    if position == "random":
        device = generator.device if generator is not None else "cpu"
        draws = torch.rand(len(free), generator=generator, device=device).tolist()
        return Region(grid, tuple(int(u * (f + 1)) for u, f in zip(draws, free, strict=True)), size)
    if content is None:
        raise ValueError("region 'content' needs the content of each sub-volume, got None")
    sums = content
    for axis, length in enumerate(size):
        sums = sums.unfold(axis, length, 1).sum(-1)
    best = torch.unravel_index(sums.argmax(), sums.shape)
    return Region(grid, tuple(int(b) for b in best), size)


def subvolume_content(image: Tensor, grid: MaskGrid) -> Tensor:
    """Return the share of foreground voxels in each sub-volume, averaged over the batch.

    Foreground is every value but 0. Air in a clipped CT window and the background of a z-scored brain scan are 0.

    Args:
        image: crops (B, C, *image_size).
        grid: the crop's grid.

    Returns:
        Tensor (*subvolume_grid) in [0, 1].

    Example:
        >>> grid, image = MaskGrid(4, 2, 1), torch.zeros(1, 1, 4, 4, 4)
        >>> image[..., :2, :2, :2] = 1
        >>> subvolume_content(image, grid)[0, 0].tolist()
        [1.0, 0.0]
    """
    foreground = (image != 0).float().mean(1, keepdim=True)
    return split_subvolumes(foreground, grid).mean((0, 2)).view(grid.subvolume_grid)


def split_subvolumes(feature: Tensor, grid: MaskGrid) -> Tensor:
    """Split a feature map into the values of each sub-volume, which keep their order.

    Args:
        feature: (B, C, *spatial), at a resolution that the sub-volumes divide.
        grid: the crop's grid.

    Returns:
        Tensor (B, S, C * V) with S sub-volumes in C order, each of C channels and V voxels.

    Example:
        >>> split_subvolumes(torch.zeros(2, 64, 6, 6, 6), MaskGrid(96, 32, 16)).shape
        torch.Size([2, 27, 512])
    """
    dims = len(grid.image_size)
    sides = [n // total for n, total in zip(feature.shape[2:], grid.subvolume_grid, strict=True)]
    shape = [size for pair in zip(grid.subvolume_grid, sides, strict=True) for size in pair]
    blocks = feature.reshape(*feature.shape[:2], *shape)
    # (B, C, s1, v1, .., sn, vn) -> (B, s1, .., sn, C, v1, .., vn)
    order = [0, *(2 + 2 * d for d in range(dims)), 1, *(3 + 2 * d for d in range(dims))]
    return blocks.permute(order).reshape(len(feature), grid.num_subvolumes, -1)
