# SPDX-License-Identifier: Apache-2.0

"""Parts of phantoms of any body part: a grid, smooth random fields on it, and blur."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["blur", "check_grid", "smooth_noise"]


def check_grid(size: Sequence[int], spacing: Sequence[float]) -> None:
    """Refuse a grid that no phantom fits into.

    Raises:
        ValueError: when size is not 3 integers of at least 16, or spacing not 3 positive numbers of mm.
    """
    if len(size) != 3 or any(isinstance(n, bool) or not isinstance(n, int) or n < 16 for n in size):
        raise ValueError(f"size must be 3 integers of at least 16, got {size}")
    if len(spacing) != 3 or not all(0 < mm < math.inf for mm in spacing):
        raise ValueError(f"spacing must be 3 positive numbers of mm, got {spacing}")


def smooth_noise(
    rng: np.random.Generator,
    size: Sequence[int],
    spacing: Sequence[float],
    scale: float = 0.0,
    millimetres: float = 0.0,
) -> NDArray[np.float32]:
    """Draw smooth noise of unit variance on a grid (H, W, D).

    Args:
        rng: the only source of randomness.
        size: voxels (H, W, D).
        spacing: voxel size in mm.
        scale: size of the details as a fraction of half the field of view.
        millimetres: size of the details in mm, instead of ``scale``.
    """
    pitches = [millimetres / mm or scale * n / 2 for n, mm in zip(size, spacing, strict=True)]
    weights = [_gaussians(n, max(1.0, p), 0.6 * max(1.0, p)) for n, p in zip(size, pitches, strict=True)]
    weights = [w / np.linalg.norm(w, axis=1, keepdims=True) for w in weights]
    return _along_axes(weights, rng.standard_normal([w.shape[1] for w in weights], dtype=np.float32))


def blur(volume: NDArray[np.float32], sigmas: Sequence[float]) -> NDArray[np.float32]:
    """Blur a volume (H, W, D) with a Gaussian; ``sigmas`` are in voxels, one per axis."""
    weights = [_gaussians(n, 1, sigma) for n, sigma in zip(volume.shape, sigmas, strict=True)]
    return _along_axes([w / w.sum(1, keepdims=True) for w in weights], volume)


def _gaussians(n: int, pitch: float, sigma: float) -> NDArray[np.float32]:
    """Return weights (n, m) of Gaussians every ``pitch`` voxels. One matrix product per axis then needs no SciPy."""
    centres = np.arange(math.ceil((n - 1) / pitch) + 1) * pitch
    return np.exp(-0.5 * ((np.arange(n)[:, None] - centres) / sigma) ** 2).astype(np.float32)


def _along_axes(weights: Sequence[NDArray[np.float32]], volume: NDArray[np.float32]) -> NDArray[np.float32]:
    for matrix in reversed(weights):  # each product moves the last axis to the front, so that three restore the order
        volume = np.tensordot(matrix, volume, axes=(1, 2))
    return volume
