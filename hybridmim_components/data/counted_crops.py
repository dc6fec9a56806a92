# SPDX-License-Identifier: Apache-2.0

"""MONAI's balanced crops, with identical results but without searching the whole label for each draw.

MONAI can avoid the search by keeping the indices of all voxels of each class. For BTCV, they take as much memory as
image and label together. Here, the voxels of each plane are counted once, and a draw searches only the plane that it
falls into.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.transforms import MapTransform, RandCropByLabelClassesd, RandCropByPosNegLabeld
from monai.transforms.utils import map_binary_to_indices, map_classes_to_indices
from monai.utils import convert_to_tensor

__all__ = ["COUNTED_CROPS", "CountedCropByLabelClassesd", "CountedCropByPosNegLabeld", "PlaneCountsd"]

_FOREGROUND, _BACKGROUND = "_foreground", "_background"
_CLASSES = "_classes"
_ALL_PLANES = slice(None)


class PlaneCountsd(MapTransform):
    """Transform that counts the voxels on which crops may be centred, in each plane along the first spatial axis.

    The transform is deterministic, so that its result can be cached. It adds ``<label_key>_counts``, int64 of shape
    (kinds, planes). The kinds are foreground and background or, with ``num_classes``, the classes.

    Args:
        label_key: key of the label (C, H, W, D).
        image_key: key of an image. Voxels count as background, or as any class, only where it exceeds the threshold.
        image_threshold: the threshold.
        num_classes: number of classes of a label with one channel; None: foreground and background.

    Example:
        >>> label = torch.zeros(1, 3, 2, 2)
        >>> label[0, 1, 0, 0] = 1
        >>> PlaneCountsd()({"label": label})["label_counts"]
        tensor([[0, 1, 0],
                [4, 3, 4]])
    """

    def __init__(
        self,
        label_key: str = "label",
        image_key: str | None = None,
        image_threshold: float = 0.0,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(label_key)
        self.label_key, self.image_key = label_key, image_key
        self.image_threshold, self.num_classes = image_threshold, num_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with the counts."""
        d = dict(data)
        volume = _Volume(d, self.label_key, self.image_key, self.image_threshold, self.num_classes)
        planes = volume.label.shape[1]
        counts = [torch.bincount(found // volume.plane_size, minlength=planes) for found in volume.indices()]
        d[f"{self.label_key}_counts"] = torch.stack(counts)
        return d


class CountedCropByPosNegLabeld(RandCropByPosNegLabeld):
    """MONAI's RandCropByPosNegLabeld, with the same crops for a seed, based on the counts of :class:`PlaneCountsd`.

    Without the counts, it searches the label as MONAI does. Crops are copies, so that changing them never changes a
    cache.

    Args:
        settings: arguments of RandCropByPosNegLabeld, without keys of indices.

    Example:
        >>> item = {"image": torch.rand(1, 8, 8, 8), "label": torch.rand(1, 8, 8, 8) > 0.9}
        >>> settings = {"keys": "image", "label_key": "label", "spatial_size": (4, 4, 4), "num_samples": 3}
        >>> ours = CountedCropByPosNegLabeld(**settings).set_random_state(0)(PlaneCountsd()(item))
        >>> monais = RandCropByPosNegLabeld(**settings).set_random_state(0)(item)
        >>> [torch.equal(one["image"], other["image"]) for one, other in zip(ours, monais)]
        [True, True, True]
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, fg_indices_key=_FOREGROUND, bg_indices_key=_BACKGROUND)

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> list[dict[Hashable, Any]]:
        """Return a list of crops of the item."""
        d = dict(data)
        counts = d.pop(f"{self.label_key}_counts", None)
        if counts is not None:
            volume = _Volume(d, self.label_key, self.image_key, self.cropper.image_threshold)
            d[_FOREGROUND], d[_BACKGROUND] = volume.counted(counts)
        return _copied(super().__call__(d, lazy), self.keys)


class CountedCropByLabelClassesd(RandCropByLabelClassesd):
    """MONAI's RandCropByLabelClassesd, with the same crops for a seed, based on the counts of :class:`PlaneCountsd`.

    Without the counts, it searches the label as MONAI does. Crops are copies, so that changing them never changes a
    cache.

    Args:
        settings: arguments of RandCropByLabelClassesd, without a key of indices.

    Raises:
        ValueError: when ``num_classes`` is missing, or ``max_samples_per_class`` would leave out voxels.

    Example:
        >>> item = {"image": torch.rand(1, 8, 8, 8), "label": torch.randint(3, (1, 8, 8, 8))}
        >>> counted = PlaneCountsd(num_classes=3)(item)
        >>> settings = {"keys": "image", "label_key": "label", "spatial_size": (4, 4, 4), "num_classes": 3}
        >>> (ours,) = CountedCropByLabelClassesd(**settings).set_random_state(0)(counted)
        >>> (monais,) = RandCropByLabelClassesd(**settings).set_random_state(0)(item)
        >>> torch.equal(ours["image"], monais["image"])
        True
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, indices_key=_CLASSES)
        num_classes, most = self.cropper.num_classes, self.cropper.max_samples_per_class
        if num_classes is None or most is not None:
            raise ValueError(
                f"crops from counts need num_classes and no max_samples_per_class, got {num_classes} and {most}"
            )

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> list[dict[Hashable, Any]]:
        """Return a list of crops of the item."""
        d = dict(data)
        counts, cropper = d.pop(f"{self.label_key}_counts", None), self.cropper
        if counts is not None:
            volume = _Volume(d, self.label_key, self.image_key, cropper.image_threshold, cropper.num_classes)
            d[_CLASSES] = volume.counted(counts)
        return _copied(super().__call__(d, lazy), self.keys)


COUNTED_CROPS = (CountedCropByLabelClassesd, CountedCropByPosNegLabeld)


class _Volume:
    """Label and the image that limits it, in which MONAI finds the voxels of each kind."""

    def __init__(
        self,
        data: Mapping[Hashable, Any],
        label_key: str,
        image_key: str | None,
        threshold: float,
        num_classes: int | None = None,
    ) -> None:
        self.label: torch.Tensor = convert_to_tensor(data[label_key], track_meta=False)
        self.image = None if image_key is None else convert_to_tensor(data[image_key], track_meta=False)
        self.threshold, self.num_classes = threshold, num_classes
        self.plane_size = self.label[0, 0].numel()

    def indices(self, plane: slice = _ALL_PLANES) -> list[torch.Tensor]:
        """Return the flat indices of each kind in some planes, relative to the first of these planes."""
        label = self.label[:, plane]
        image = None if self.image is None else self.image[:, plane]
        found: Sequence[Any]
        if self.num_classes is None:
            found = map_binary_to_indices(label, image, self.threshold)
        else:
            found = map_classes_to_indices(label, self.num_classes, image, self.threshold)
        return [torch.as_tensor(indices) for indices in found]

    def counted(self, counts: torch.Tensor) -> list[_Indices]:
        """Return the indices of each kind in the whole volume, given its counts."""
        return [_Indices(self, kind, of_kind) for kind, of_kind in enumerate(counts)]


class _Indices:
    """Stand-in for MONAI's list of flat indices that finds each index when it is asked for."""

    def __init__(self, volume: _Volume, kind: int, counts: torch.Tensor) -> None:
        self.volume, self.kind, self.counts = volume, kind, counts
        self.ends = counts.cumsum(0)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, number: int) -> torch.Tensor:
        plane = int(torch.searchsorted(self.ends, number, right=True))
        found = self.volume.indices(slice(plane, plane + 1))[self.kind]
        if len(found) != self.counts[plane]:
            raise ValueError(
                "PlaneCountsd and the crop must have the same image_key, image_threshold and num_classes, "
                f"got {int(self.counts[plane])} voxels where the crop finds {len(found)}"
            )
        return found[number - int(self.ends[plane])] + plane * self.volume.plane_size  # index from the plane's end


def _copied(crops: list[dict[Hashable, Any]], keys: Any) -> list[dict[Hashable, Any]]:
    return [{key: value.clone() if key in keys else value for key, value in crop.items()} for crop in crops]
