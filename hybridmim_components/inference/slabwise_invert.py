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

"""From a network's output to the label map on the image's own grid, never holding all classes at that resolution."""

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
    """Activation, inverse of the pre-processing and decoding in one, a slab of the image's own grid at a time.

    Takes the place of ``Activationsd``, ``Invertd(nearest_interp=False)`` and what turns probabilities into labels.
    These hold every class at the image's full size, in float64; here one slab of one class is interpolated at a time,
    compared with the largest so far, and the result holds one byte per voxel. Interpolation is that of ``Invertd``:
    linear, from the border outwards constant. Only the place of the voxels is inverted (orientation, spacing, crop), by
    the image's affines. Where the pre-processing cropped the image, the result is 0, background.

    Args:
        keys: the network's outputs, each (C, H, W, D), on the grid of the pre-processed image.
        activation: dictionary transforms from output to probabilities, applied before interpolation.
        decode: dictionary transforms from probabilities (C, ...) to labels (1, ...) in 0..255, voxel by voxel, for
            channels that overlap; default: the channel of the largest probability.
        orig_keys: the pre-processed image, which must have its affine and what ``LoadImaged`` found of the file.
        slab_size: slices of the image's first axis at a time: more are a little faster and take more memory.

    Raises:
        ValueError: when ``slab_size`` is less than 1; when called, if the image's file is unknown or the output does
            not lie on the image's grid.
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
        """Replace each output by its labels, a ``MetaTensor`` (1, *shape of the file) of bytes."""
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
    """Number of the channel with the largest value, the first of equals, as ``argmax`` over all of them."""
    labels, largest = torch.empty(0), torch.empty(0)
    for number, values in enumerate(channels):
        if number == 0:
            labels, largest = torch.zeros_like(values, dtype=torch.uint8), values
        else:
            labels.masked_fill_(values > largest, number)
            largest = torch.maximum(largest, values)
    return labels
