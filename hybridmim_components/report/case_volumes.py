# SPDX-License-Identifier: Apache-2.0

"""Volumes of an evaluated case as small NIfTI files in base64, for the viewer of the report page."""

from __future__ import annotations

import base64
import gzip
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.transforms import Spacing
from torch.nn.functional import adaptive_max_pool3d

from hybridmim_components.data.volumes import Image, VolumeRules, check_label, image_files, read_volume

__all__ = ["CaseVolumes", "MOST_VOXELS", "read_case"]

#: Larger volumes are shown at a coarser spacing. A CT of this size takes about 3 MB of the page.
MOST_VOXELS = 2_000_000
_HU = (-1024, 3071)


@dataclass(frozen=True)
class CaseVolumes:
    """Volumes of a case on one grid, each as the base64 text of a ``.nii.gz`` file.

    Attributes:
        images: one file per channel. CT: int16 in HU, clipped to -1024..3071. MRI: uint8 with the header's scale.
        truth: label values.
        prediction: label values.
        errors: 1 where the truth has a label and the prediction has none, 2 the other way round, 3 where they have
            different labels.
        focus: voxel of the files to look at first: the slices that hold most of the truth, or else of the prediction.
        windows: display windows of each image by name: least and largest value.
        values: label values that occur.
        spacing: of the files, in mm.
        reduced: whether they are coarser than the originals.
        voxel_ml: volume of a voxel of the original label, in ml.
        truth_ml: volume of all labels of the original truth, in ml.
        predicted_ml: the same of the prediction.

    Example:
        >>> nib.save(nib.Nifti1Image(np.arange(64.0).reshape(4, 4, 4), np.eye(4)), "scan.nii")
        >>> nib.save(nib.Nifti1Image(np.eye(4)[:, :, None].repeat(4, 2), np.eye(4)), "label.nii")
        >>> case = read_case("scan.nii", "label.nii", "label.nii", hounsfield=True)
        >>> truth = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(case.truth)))
        >>> truth.shape, int(np.sum(truth.dataobj))
        ((4, 4, 4), 16)
    """

    images: tuple[str, ...]
    truth: str
    prediction: str
    errors: str
    focus: tuple[int, ...]
    windows: tuple[Mapping[str, tuple[float, float]], ...]
    values: tuple[int, ...]
    spacing: tuple[float, ...]
    reduced: bool
    voxel_ml: float
    truth_ml: float
    predicted_ml: float

    @property
    def size(self) -> int:
        """Bytes that the volumes take in the page."""
        return sum(len(text) for text in (*self.images, self.truth, self.prediction, self.errors))


def read_case(
    image: Image, label: str | Path, prediction: str | Path, hounsfield: bool, most_voxels: int = MOST_VOXELS
) -> CaseVolumes:
    """Read image, label and predicted mask, reduce them to at most ``most_voxels`` voxels, and pack them.

    Args:
        image: a file, or one per modality.
        label: file of the truth.
        prediction: file of the mask.
        hounsfield: whether the image holds HU.
        most_voxels: of each volume.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: when a file cannot be read, label or mask does not lie on the grid of the image, or a label value is
            not in 0..255; names the file.

    Example:
        >>> label = np.zeros((10, 10, 10))
        >>> label[:2] = 1
        >>> volumes = {"scan": np.arange(1000.0).reshape(10, 10, 10), "label": label, "mask": label[::-1]}
        >>> for name, values in volumes.items():
        ...     nib.save(nib.Nifti1Image(values, np.eye(4)), f"{name}.nii")
        >>> case = read_case("scan.nii", "label.nii", "mask.nii", hounsfield=True)
        >>> case.truth_ml, case.predicted_ml, case.focus, case.reduced
        (0.2, 0.2, (0, 0, 0), False)
    """
    if not Path(prediction).is_file():
        raise FileNotFoundError(f"no mask {prediction}")
    volume = read_volume(image, rules=VolumeRules(channels=_channels(image_files(image))))
    truth, predicted = (check_label(volume, str(file), range(256)) for file in (label, prediction))
    volumes: dict[str, Any] = {"image": volume, "label": truth, "prediction": predicted}
    original = tuple(float(mm) for mm in volume.pixdim)
    voxel_ml = math.prod(original) / 1000
    truth_ml, predicted_ml = (float((volumes[name] > 0).sum()) * voxel_ml for name in ("label", "prediction"))
    labels, masks = (volumes[name].as_tensor().round() for name in ("label", "prediction"))
    kinds = ((labels > 0) & (masks == 0), (labels == 0) & (masks > 0), (labels != masks) & (labels > 0) & (masks > 0))
    errors = sum(number * kind for number, kind in enumerate(kinds, 1))
    spacing = _coarser(original, volume.shape[1:], most_voxels)
    if spacing != original:
        for name, mode in (("image", "bilinear"), ("label", "nearest"), ("prediction", "nearest")):
            volumes[name] = Spacing(spacing, mode=mode)(volumes[name])
        # the largest of a voxel's neighbourhood, so that no small error is lost
        errors = adaptive_max_pool3d(errors.float(), volumes["label"].shape[1:])
    labels, masks, errors = (
        np.asarray(found[0]).astype(np.uint8) for found in (volumes["label"], volumes["prediction"], errors)
    )
    affine = volumes["label"].affine.numpy()
    images = [channel.numpy() for channel in volumes["image"]]
    return CaseVolumes(
        images=tuple(_image(channel, hounsfield, affine) for channel in images),
        truth=_pack(labels, affine),
        prediction=_pack(masks, affine),
        errors=_pack(errors, affine),
        focus=_focus(labels if labels.any() else masks),
        windows=tuple(_windows(image, hounsfield) for image in images),
        values=tuple(int(value) for value in np.union1d(labels, masks) if value),
        spacing=spacing,
        reduced=spacing != original,
        voxel_ml=voxel_ml,
        truth_ml=truth_ml,
        predicted_ml=predicted_ml,
    )


def _channels(files: Sequence[str]) -> int:
    """Return the number of channels: that of the files, or of a NIfTI file with a fourth axis."""
    path = files[0]
    if len(files) > 1 or not path.endswith((".nii", ".nii.gz")) or not Path(path).is_file():
        return len(files)
    shape: tuple[int, ...] = nib.load(path).shape
    return int(shape[3]) if len(shape) == 4 else 1


def _coarser(spacing: tuple[float, ...], size: Sequence[int], most_voxels: int) -> tuple[float, ...]:
    """Return a spacing at which the volume has few enough voxels. The finest axes are coarsened first."""
    least, found = min(spacing), spacing
    extent = [mm * n for mm, n in zip(spacing, size, strict=True)]
    while math.prod(math.ceil(whole / mm) for whole, mm in zip(extent, found, strict=True)) > most_voxels:
        least *= 1.05
        found = tuple(max(mm, least) for mm in spacing)
    return found


def _focus(labels: np.ndarray) -> tuple[int, ...]:
    axes = range(labels.ndim)
    return tuple(int((labels > 0).sum(tuple(set(axes) - {axis})).argmax()) for axis in axes)


def _windows(channel: np.ndarray, hounsfield: bool) -> dict[str, tuple[float, float]]:
    if hounsfield:
        return {"soft tissue": (-160, 240), "liver": (0, 150), "lung": (-1350, 150), "bone": (-450, 1050)}
    inside = channel[channel > channel.min()]
    low, high = np.percentile(inside, (1, 99)) if inside.size else (channel.min(), channel.max() + 1)
    return {
        "1 to 99 %": (float(low), float(high)),
        "bright": (float(low), float(low + (high - low) / 2)),
        "all": (float(channel.min()), float(np.percentile(channel, 99.9))),
    }


def _image(channel: np.ndarray, hounsfield: bool, affine: np.ndarray) -> str:
    """Pack a channel: HU as they are, other intensities as grey levels from 0 to 255 without the brightest 0.1 %."""
    if hounsfield:
        return _pack(channel.clip(*_HU).round().astype(np.int16), affine)
    return _pack(channel.clip(max=np.percentile(channel, 99.9)), affine)


def _pack(values: np.ndarray, affine: np.ndarray) -> str:
    """Return the base64 text of a packed NIfTI file. Floats become uint8, with slope and intercept in the header."""
    image = nib.Nifti1Image(values, affine)
    if values.dtype.kind == "f":
        image.set_data_dtype(np.uint8)
    # no time in the packed file, so that the same case gives the same text
    return base64.b64encode(gzip.compress(image.to_bytes(), mtime=0)).decode()
