# SPDX-License-Identifier: Apache-2.0

"""Resampling of a volume to another grid, box by box, as MONAI's ``SpatialResample`` does for the whole volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

__all__ = ["VoxelMap"]

Box = tuple[slice, slice, slice]
_TOLERANCE = 1e-3  # in voxels of the source


class VoxelMap:
    """Map from the voxels of one grid, the target, to positions in another grid, the source.

    The source is interpolated linearly between its voxels. A target voxel whose centre lies beyond the source's
    outermost voxel centres takes the value at the border, if it is no further away than one voxel of the coarser grid:
    resampling can miss the edge of an image by that much. Voxels further away are outside: the source was cropped
    there.

    Grids that differ only by flips, swapped axes, shifts and voxel sizes are read axis by axis. Other grids, such as
    those of scans with a tilted gantry, are read voxel by voxel.

    Args:
        source_affine: (4, 4), source voxels to mm.
        source_shape: voxels of the source (H, W, D).
        target_affine: (4, 4), target voxels to mm.
        target_shape: voxels of the target.

    Raises:
        ValueError: when an affine cannot be inverted.
    """

    def __init__(
        self,
        source_affine: NDArray[np.float64],
        source_shape: Sequence[int],
        target_affine: NDArray[np.float64],
        target_shape: Sequence[int],
    ) -> None:
        try:
            self.matrix = np.linalg.solve(source_affine, target_affine)
        except np.linalg.LinAlgError as error:
            raise ValueError(f"source_affine must be invertible, got {source_affine}") from error
        self.source_shape = tuple(source_shape)
        self.target_shape = tuple(target_shape)
        linear = np.abs(self.matrix[:3, :3])
        self._reach = np.maximum(1, linear.sum(1))
        self._axes = _matching_axes(linear, self.target_shape)

    @property
    def separable(self) -> bool:
        """Whether each axis of the target runs along a single axis of the source."""
        return self._axes is not None

    def box(self) -> Box:
        """Return the smallest box with all target voxels that are not outside; the whole target if not separable."""
        if self._axes is None:
            return _slices([0, 0, 0], self.target_shape)
        starts, stops = [], []
        for axis, length in enumerate(self.target_shape):
            inside = np.flatnonzero(self._is_inside(self._axes[axis], self._positions(axis, slice(0, length))))
            starts.append(int(inside[0]) if inside.size else 0)
            stops.append(int(inside[-1]) + 1 if inside.size else 0)
        return _slices(starts, stops)

    def needed(self, box: Box) -> Box:
        """Return the box of source voxels that a box of target voxels needs."""
        corners = np.stack(np.meshgrid(*[(s.start, s.stop - 1) for s in box], indexing="ij")).reshape(3, -1)
        found = self.matrix[:3, :3] @ corners + self.matrix[:3, 3:]
        last = np.array(self.source_shape)[:, None] - 1
        found = np.clip(found, 0, last)
        return _slices(np.floor(found.min(1)).astype(int), np.ceil(found.max(1)).astype(int) + 1)

    def read(self, source: torch.Tensor, place: Box, box: Box) -> torch.Tensor:
        """Interpolate the source at the voxels of a target box.

        Args:
            source: (C, H, W, D), the part of the source at ``place``.
            place: box of source voxels, as :meth:`needed` gives it.
            box: box of target voxels.

        Returns:
            (C, *size of box), outside voxels included.
        """
        if self._axes is None:
            return self._read_voxels(source, place, box)
        source = source.permute(0, *[axis + 1 for axis in self._axes])
        sizes = [s.stop - s.start for s in box]
        # the axis that shrinks most comes first: the others then have less to read
        for axis in sorted(range(3), key=lambda i: sizes[i] / source.shape[i + 1]):
            positions = self._positions(axis, box[axis]) - place[self._axes[axis]].start
            source = _interpolate(source, axis + 1, positions)
        return source

    def inside(self, box: Box) -> torch.Tensor:
        """Return which voxels of a box are not outside: boolean, of the size of the box."""
        positions = self._grid(box)
        result = torch.ones([s.stop - s.start for s in box], dtype=torch.bool)
        for axis in range(3):
            result &= torch.from_numpy(self._is_inside(axis, positions[..., axis]))
        return result

    def _is_inside(self, axis: int, positions: NDArray[np.float64]) -> NDArray[np.bool_]:
        reach = self._reach[axis] + _TOLERANCE
        return (positions >= -reach) & (positions <= self.source_shape[axis] - 1 + reach)

    def _positions(self, axis: int, part: slice) -> NDArray[np.float64]:
        """Return the positions on the source axis that this target axis runs along."""
        assert self._axes is not None
        row = self.matrix[self._axes[axis]]
        return row[axis] * np.arange(part.start, part.stop) + row[3]

    def _grid(self, box: Box) -> NDArray[np.float64]:
        """Return the source positions of the voxels of a box (*size, 3)."""
        axes = [np.arange(s.start, s.stop, dtype=np.float64) for s in box]
        return np.stack(np.meshgrid(*axes, indexing="ij"), -1) @ self.matrix[:3, :3].T + self.matrix[:3, 3]

    def _read_voxels(self, source: torch.Tensor, place: Box, box: Box) -> torch.Tensor:
        positions = self._grid(box) - [s.start for s in place]
        normalized = (2 * positions + 1) / np.array(source.shape[1:]) - 1
        # grid_sample counts axes from the last one
        grid = torch.from_numpy(normalized[..., ::-1].copy()).to(source)
        return F.grid_sample(source[None], grid[None], padding_mode="border", align_corners=False)[0]


def _matching_axes(linear: NDArray[np.float64], target_shape: Sequence[int]) -> tuple[int, ...] | None:
    """Return the source axis of each target axis, or None if a target axis has more than one."""
    axes = linear.argmax(0)
    rest = linear.copy()
    rest[axes, range(3)] = 0
    drift = rest @ (np.array(target_shape) - 1)
    return tuple(int(a) for a in axes) if len(set(axes)) == 3 and (drift < _TOLERANCE).all() else None


def _interpolate(volume: torch.Tensor, dim: int, positions: NDArray[np.float64]) -> torch.Tensor:
    last = volume.shape[dim] - 1
    positions = np.clip(positions, 0, last)
    below = np.minimum(np.floor(positions), max(last - 1, 0)).astype(np.int64)
    weight = torch.from_numpy(positions - below).to(volume).reshape([-1 if i == dim else 1 for i in range(4)])
    low, high = (torch.from_numpy(i).to(volume.device) for i in (below, np.minimum(below + 1, last)))
    return torch.lerp(volume.index_select(dim, low), volume.index_select(dim, high), weight)


def _slices(starts: Sequence[int], stops: Sequence[int]) -> Box:
    first, second, third = (slice(int(a), int(b)) for a, b in zip(starts, stops, strict=True))
    return first, second, third
