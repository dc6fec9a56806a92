# SPDX-License-Identifier: Apache-2.0

"""Transform that turns a network's output into labels on the image's grid, without holding all classes there."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform
from monai.utils import convert_to_tensor

from hybridmim_components.inference.voxel_map import VoxelMap

__all__ = ["SlabwiseInvertd"]


class SlabwiseInvertd(MapTransform):
    """Activation, inversion of the pre-processing and decoding in one transform, one slab of the image at a time.

    It replaces ``Activationsd``, ``Invertd(nearest_interp=False)`` and the step from probabilities to labels. These
    hold every class at the image's full size in float64. This transform interpolates one slab of one class at a time
    and compares it with the largest value so far; the result takes one byte per voxel.

    The interpolation is that of ``Invertd``: linear, and constant beyond the border. Only the geometry (orientation,
    spacing, crop) is inverted, by the image's affines. Voxels that the pre-processing cropped away get the label 0,
    background.

    Args:
        keys: the network's outputs, each (C, H, W, D), on the grid of the pre-processed image.
        activation: dictionary transforms from output to probabilities, applied before interpolation.
        decode: dictionary transforms from probabilities (C, ...) to labels (1, ...) in 0..255, for channels that
            overlap; they must work voxel by voxel. Default: the channel with the largest probability.
        orig_keys: the pre-processed image, which must have its affine and the file's metadata from ``LoadImaged``.
        slab_size: slices of a slab, along the image's first axis. More are a little faster and take more memory.

    Raises:
        ValueError: when ``slab_size`` is below 1. A call raises it when the image lacks the metadata of its file, or
            when the output does not lie on the image's grid.

    Example:
        >>> output = torch.zeros(2, 4, 4, 4)
        >>> output[0, :2], output[1, 2:] = 5, 5
        >>> file = {"original_affine": np.eye(4), "spatial_shape": (12, 12, 12)}
        >>> image = MetaTensor(torch.rand(1, 4, 4, 4), affine=np.diag([3.0, 3.0, 3.0, 1.0]), meta=file)
        >>> invert = SlabwiseInvertd("pred", activation=[Activationsd("pred", softmax=True)])
        >>> labels = invert({"image": image, "pred": output})["pred"]
        >>> tuple(labels.shape), labels[0, :, 0, 0].tolist()
        ((1, 12, 12, 12), [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1])
    """

    def __init__(
        self,
        keys: KeysCollection,
        activation: Sequence[Callable[..., Any]],
        decode: Sequence[Callable[..., Any]] | None = None,
        orig_keys: str = "image",
        slab_size: int = 8,
    ) -> None:
        super().__init__(keys)
        if slab_size < 1:
            raise ValueError(f"slab_size must be at least 1, got {slab_size}")
        self.activation = Compose(activation)
        self.decode = None if decode is None else Compose(decode)
        self.orig_keys = orig_keys
        self.slab_size = slab_size

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each output by its labels, a uint8 ``MetaTensor`` (1, *shape of the file)."""
        item = dict(data)
        image = item[self.orig_keys]
        affine, shape = self._original_grid(image)
        for key in self.key_iterator(item):
            output = convert_to_tensor(item[key], track_meta=False).detach()
            if output.shape[1:] != image.shape[1:]:
                raise ValueError(
                    f"{key} must lie on the grid of {self.orig_keys}, {tuple(image.shape[1:])}, got {output.shape[1:]}"
                )
            voxels = VoxelMap(np.asarray(image.affine.cpu(), float), output.shape[1:], affine, shape)
            meta = {**deepcopy(image.meta), "affine": torch.as_tensor(affine)}
            item[key] = MetaTensor(self._labels(str(key), output, voxels)[None], meta=meta)
        return item

    def _original_grid(self, image: Any) -> tuple[np.ndarray, list[int]]:
        meta = image.meta if isinstance(image, MetaTensor) else {}
        missing = [name for name in ("original_affine", "spatial_shape") if name not in meta]
        if missing:
            raise ValueError(f"{self.orig_keys} must be a MetaTensor as LoadImaged gives it, it lacks {missing}")
        shape = [int(length) for length in np.asarray(meta["spatial_shape"])[:3]]
        return np.asarray(meta["original_affine"], float), shape

    def _labels(self, key: str, output: torch.Tensor, voxels: VoxelMap) -> torch.Tensor:
        labels = torch.zeros(voxels.target_shape, dtype=torch.uint8, device=output.device)
        whole = voxels.box()
        for start in range(whole[0].start, whole[0].stop, self.slab_size):
            box = (slice(start, min(start + self.slab_size, whole[0].stop)), *whole[1:])
            place = voxels.needed(box)
            part = self._apply(self.activation, key, output[(slice(None), *place)])
            if self.decode is None:
                found = _largest(voxels.read(channel[None], place, box)[0] for channel in part)
            else:
                found = self._apply(self.decode, key, voxels.read(part, place, box))[0].to(torch.uint8)
            if not voxels.separable:
                found = found * voxels.inside(box).to(found)
            labels[box] = found
        return labels

    @staticmethod
    def _apply(transform: Compose, key: str, value: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = convert_to_tensor(transform({key: value})[key], track_meta=False)
        return result


def _largest(channels: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the number of the channel with the largest value, the first one of equals, as ``argmax`` does."""
    labels, largest = torch.empty(0), torch.empty(0)
    for number, values in enumerate(channels):
        if number == 0:
            labels, largest = torch.zeros_like(values, dtype=torch.uint8), values
        else:
            labels.masked_fill_(values > largest, number)
            largest = torch.maximum(largest, values)
    return labels
