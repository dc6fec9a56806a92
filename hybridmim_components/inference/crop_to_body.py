# SPDX-License-Identifier: Apache-2.0

"""Transform that crops an image to the sliding windows that contain body."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data.utils import dense_patch_slices
from monai.transforms import CropForeground, CropForegroundd
from monai.utils import ensure_tuple, ensure_tuple_rep
from numpy.typing import NDArray

__all__ = ["CropToBodyd", "body_mask"]

Ends = tuple[NDArray[np.int16], NDArray[np.int16]]


class CropToBodyd(CropForegroundd):
    """Transform that crops an image to the box of its body, so that no sliding windows cover the air around it.

    The body is every voxel above a threshold, including beds and blankets. An image without such voxels stays whole.

    With ``keep_windows``, the box grows to the edges of all windows of the whole image that touch the box of the body.
    The crop then has exactly these windows, so their results do not change. Without ``keep_windows``, the box is that
    of the body with a margin. This takes fewer windows, but at other positions: a network that normalises each window
    by its own content (instance norm) may then label the same voxel differently.

    Args:
        keys: images (C, H, W, D); the box of the first one crops all of them.
        threshold: a voxel above it in any channel is body. For CT, -500 HU lies between air and soft tissue; for MRI
            whose background is 0, use 0.
        roi_size: size of the sliding windows in voxels, for all axes or for each.
        overlap: overlap of the sliding windows, as a share of their size.
        keep_windows: see above.
        margin: voxels around the box of the body if ``keep_windows`` is False.

    Example:
        >>> image = torch.full((1, 32, 32, 32), -1000.0)
        >>> image[:, 4:12, 4:12, 4:12] = 40
        >>> CropToBodyd("image", threshold=-500, roi_size=8)({"image": image})["image"].shape
        torch.Size([1, 16, 16, 16])
        >>> crop_closer = CropToBodyd("image", threshold=-500, roi_size=8, keep_windows=False, margin=2)
        >>> crop_closer({"image": image})["image"].shape
        torch.Size([1, 12, 12, 12])
    """

    def __init__(
        self,
        keys: KeysCollection,
        threshold: float,
        roi_size: Sequence[int] | int,
        overlap: float = 0.5,
        keep_windows: bool = True,
        margin: int = 4,
    ) -> None:
        select = partial(body_mask, threshold=threshold)
        margin = 0 if keep_windows else margin
        settings: dict[str, Any] = {"select_fn": select, "margin": margin, "allow_smaller": True}
        super().__init__(keys, ensure_tuple(keys)[0], start_coord_key=None, end_coord_key=None, **settings)
        if keep_windows:
            self.cropper = _CropToWindows(roi_size, overlap, **settings)


class _CropToWindows(CropForeground):
    """Foreground crop whose box grows to the edges of the windows that touch it."""

    def __init__(self, roi_size: Sequence[int] | int, overlap: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.roi_size, self.overlap = roi_size, overlap

    def compute_bounding_box(self, img: torch.Tensor) -> Ends:
        """Return the first voxel of the box, and the one after its last."""
        starts, ends = super().compute_bounding_box(img)
        roi_size = ensure_tuple_rep(self.roi_size, len(starts))
        windows = [
            touching_windows(length, int(roi), self.overlap, int(start), int(end))
            for length, roi, start, end in zip(img.shape[1:], roi_size, starts, ends, strict=True)
        ]
        return np.array([w[0] for w in windows], np.int16), np.array([w[1] for w in windows], np.int16)


def body_mask(image: torch.Tensor, threshold: float) -> torch.Tensor:
    """Mark the body, or the whole image if it has none, since MONAI would crop such an image to nothing.

    Args:
        image: any shape.
        threshold: voxels above it are body.

    Returns:
        Boolean, of the shape of the image; True is body.

    Example:
        >>> body_mask(torch.tensor([-1000.0, 40.0]), threshold=-500)
        tensor([False,  True])
        >>> body_mask(torch.tensor([-1000.0, -990.0]), threshold=-500)
        tensor([True, True])
    """
    mask = image > threshold
    return mask if mask.any() else torch.ones_like(mask)


def touching_windows(length: int, roi: int, overlap: float, start: int, end: int) -> tuple[int, int]:
    """Return where the windows that touch an interval begin and end along one axis.

    Args:
        length: voxels of the axis.
        roi: voxels of a window.
        overlap: overlap of the windows, as a share of their size.
        start: first voxel of the interval.
        end: voxel after the last one of the interval.
    """
    if roi >= length:
        return 0, length
    (windows,) = zip(*dense_patch_slices((length,), (roi,), (max(1, math.floor(roi * (1 - overlap))),)), strict=True)
    touching = [w for w in windows if w.start < end and w.stop > start]
    return touching[0].start, touching[-1].stop
