# SPDX-License-Identifier: Apache-2.0

"""Reading and checking of one volume and its label, and fingerprints of volumes."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage, Orientation

from hybridmim_components.data.headers import MAX_GIB, check_header
from hybridmim_components.system.errors import reason_of

__all__ = ["Image", "VolumeRules", "check_label", "fingerprint", "image_files", "quieten_readers", "read_volume"]

#: A file, the folder of a DICOM series, or one file per modality.
Image = str | Path | Sequence[str]
AFFINE_TOLERANCE = 0.01  # mm
MONAI_TOLERANCE = 1e-8  # that of LoadImage, which stacks the files of a case
TINY_VOXEL = 1e-9  # mm^3
SPACING_LIMITS = (0.01, 100.0)  # mm
FEW_LEVELS = 8


@dataclass(frozen=True)
class VolumeRules:
    """Requirements on the volumes of a data set.

    Attributes:
        channels: number of channels of an image, which is the number of its modalities.
        zero_background: a constant background must be 0, since normalisation takes all voxels that are not 0 as brain.
        hounsfield: images hold HU. Values that do not look like HU give a warning.
        label_values: the values that a label may hold; None: any whole numbers.
        max_gib: most memory that one file may take as float32, in GiB. A file whose header claims more is not read.

    Example:
        >>> nib.save(nib.Nifti1Image(np.arange(64.0).reshape(4, 4, 4), np.eye(4)), "scan.nii")
        >>> read_volume("scan.nii", rules=VolumeRules(channels=1)).shape
        torch.Size([1, 4, 4, 4])
        >>> read_volume("scan.nii", rules=VolumeRules(channels=4))
        Traceback (most recent call last):
        ValueError: image must be a 3D volume of 4 channels, one per modality, got 1 channel(s) of ... in scan.nii
    """

    channels: int = 1
    zero_background: bool = False
    hounsfield: bool = False
    label_values: Sequence[int] | None = None
    max_gib: float = MAX_GIB


def quieten_readers() -> None:
    """Silence MONAI's messages about optional decoders that are not installed, which come with each file it reads."""
    logging.getLogger("monai.data").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "NvImgCodecPydicomReader")


def image_files(image: Image) -> tuple[str, ...]:
    """Return the paths of an image: one, or one per modality."""
    return (str(image),) if isinstance(image, (str, Path)) else tuple(str(path) for path in image)


def read_volume(image: Image, kind: str = "image", rules: VolumeRules | None = None) -> MetaTensor:
    """Read a volume as (C, H, W, D) in RAS and refuse one that no network can use.

    Args:
        image: file, folder of a DICOM series, or one file per modality. The modalities become the channels.
        kind: ``image`` or ``label``, for the messages.
        rules: requirements on an image; default: one channel.

    Returns:
        The volume with its affine in mm, which is that of the first file.

    Raises:
        FileNotFoundError: when there is no such file or folder.
        ValueError: when the header claims too much, or the volume cannot be read, has the wrong number of channels, has
            a spacing that no image of a body has, is empty or constant, holds NaN or infinite voxels, or has modalities
            on different grids.

    Example:
        >>> nib.save(nib.Nifti1Image(np.arange(24.0).reshape(2, 3, 4), np.diag([-1, -1, 2, 1])), "scan.nii")  # in LPS
        >>> volume = read_volume("scan.nii")
        >>> volume.shape, volume.pixdim.tolist()
        (torch.Size([1, 2, 3, 4]), [1.0, 1.0, 2.0])
        >>> float(volume[0, 0, 0, 0]), float(volume[0, -1, -1, 0])  # the first stored voxel comes last along both axes
        (20.0, 0.0)
    """
    rules = rules or VolumeRules()
    paths = image_files(image)
    if len(paths) == 1:
        volume = _read_file(paths[0], kind, rules.channels, rules.max_gib)
    elif len(paths) != rules.channels:
        raise ValueError(f"image must have {rules.channels} channel(s), got {len(paths)} files: {', '.join(paths)}")
    else:
        parts = [_read_file(path, kind, 1, rules.max_gib) for path in paths]
        for path, part in zip(paths[1:], parts[1:], strict=True):
            where = f"{path}, other than {Path(paths[0]).name}"
            _require_same_grid(parts[0], part, "a modality", where, MONAI_TOLERANCE)
        volume = cast(MetaTensor, torch.cat(tuple(parts)))
    if kind == "image":
        for channel, plain in enumerate(volume.as_tensor()):
            _check_channel(np.asarray(plain), paths[min(channel, len(paths) - 1)], rules)
    return volume


def _read_file(path: str, kind: str, channels: int, max_gib: float) -> MetaTensor:
    if not Path(path).exists():
        raise FileNotFoundError(f"no {kind} {path}")
    try:
        check_header(path, max_gib)
        volume = LoadImage(image_only=True, ensure_channel_first=True)(path)
        affine = np.asarray(volume.affine)
    except Exception as error:  # each reader has its own exceptions
        raise ValueError(f"cannot read the {kind} {path}: {reason_of(error)}") from error
    if volume.ndim != 4 or min(volume.shape) < 1 or len(volume) != channels:
        wanted = "one channel" if channels == 1 else f"{channels} channels, one per modality"
        raise ValueError(
            f"{kind} must be a 3D volume of {wanted}, got {len(volume)} channel(s) of the shape "
            f"{tuple(volume.shape[1:])} in {path}"
        )
    if not bool(volume.isfinite().all()):
        raise ValueError(f"{kind} must hold finite values only, got NaN or infinity in {path}")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < TINY_VOXEL:
        raise ValueError(f"{kind} must have a finite and invertible affine, got {affine.tolist()} in {path}")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if spacing.min() < SPACING_LIMITS[0] or spacing.max() > SPACING_LIMITS[1]:
        raise ValueError(
            f"{kind} must have a spacing of {SPACING_LIMITS[0]:g} to {SPACING_LIMITS[1]:g} mm, got "
            f"{' x '.join(f'{mm:.3g}' for mm in spacing)} mm in {path}: it may be in metres or micrometres"
        )
    try:
        return cast(MetaTensor, Orientation("RAS", labels=None)(volume))
    except Exception as error:
        raise ValueError(f"{kind} must have axes along the body, got {affine.tolist()} in {path}") from error


def _check_channel(voxels: np.ndarray, path: str, rules: VolumeRules) -> None:
    if voxels.min() == voxels.max():
        raise ValueError(f"image must hold more than one value, got {voxels.flat[0]:g} in every voxel of {path}")
    if not rules.zero_background:
        return
    corners = {float(voxels[corner]) for corner in product((0, -1), repeat=voxels.ndim)}
    if len(corners) == 1 and corners != {0.0}:
        raise ValueError(
            f"the background must be 0, since intensities are normalised where they are not 0, "
            f"got a constant {corners.pop():g} in {path}"
        )


def _require_same_grid(
    image: MetaTensor, other: MetaTensor, what: str, where: str, tolerance: float = AFFINE_TOLERANCE
) -> None:
    if other.shape[1:] != image.shape[1:]:
        raise ValueError(
            f"{what} must have its image's shape {tuple(image.shape[1:])}, got {tuple(other.shape[1:])} in {where}"
        )
    # as stored, since evaluation maps the prediction to the image's stored grid and scores it on the label's
    ours, theirs = (np.asarray(volume.meta["original_affine"]) for volume in (image, other))
    if not np.allclose(theirs, ours, atol=tolerance):
        raise ValueError(
            f"{what} must be stored with its image's affine and orientation, within {tolerance:g} mm, "
            f"got another that differs by up to {np.abs(theirs - ours).max():.3g} mm in {where}"
        )


def fingerprint(image: torch.Tensor) -> str:
    """Compute the SHA-256 of a volume's shape and voxels. Renamed, re-compressed or re-oriented copies share it.

    Args:
        image: (C, H, W, D) in RAS, as :func:`read_volume` returns it.

    Returns:
        64 hexadecimal digits. They tell nothing about the patient and do not depend on the file's name.

    Example:
        >>> scan = nib.Nifti1Image(np.arange(24.0).reshape(2, 3, 4), np.eye(4))
        >>> nib.save(scan, "scan.nii")
        >>> nib.save(scan.as_reoriented([[0, -1], [1, 1], [2, 1]]), "copy.nii.gz")
        >>> fingerprint(read_volume("scan.nii")) == fingerprint(read_volume("copy.nii.gz"))
        True
        >>> fingerprint(read_volume("scan.nii")) == fingerprint(read_volume("scan.nii") + 1)
        False
    """
    values = np.asarray(image)
    peak = np.abs(values).max(initial=0)
    if 0 < peak < FEW_LEVELS:  # normalised values: rounding would leave too little to tell images apart
        values = values * (1000 / peak)
    voxels = np.clip(np.rint(values), -32768, 32767).astype("<i2")
    digest = hashlib.sha256(json.dumps(list(voxels.shape)).encode())
    digest.update(np.ascontiguousarray(voxels).tobytes())
    return digest.hexdigest()


def check_label(image: MetaTensor, path: str, label_values: Sequence[int] | None = None) -> MetaTensor:
    """Read a label and refuse one that does not belong to its image.

    Args:
        image: what :func:`read_volume` returned.
        path: label file.
        label_values: the values that may occur; None: any whole numbers.

    Returns:
        The label, (1, H, W, D) in RAS.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the label cannot be read, its shape or affine is not the image's, or a value is unexpected.
    """
    # a label may be as large as its image, whatever the limit
    label = read_volume(path, "label", VolumeRules(max_gib=max(MAX_GIB, image[0].numel() * 4 / 2**30)))
    _require_same_grid(image, label, "a label", path)
    values = np.unique(np.asarray(label))
    expected = np.rint(values) if label_values is None else np.asarray(label_values)
    if not np.isin(values, expected).all():
        unexpected = ", ".join(f"{v:g}" for v in np.setdiff1d(values, expected)[:5])
        rule = "whole numbers" if label_values is None else f"among {', '.join(str(v) for v in label_values)}"
        raise ValueError(f"label values must be {rule}, got {unexpected} in {path}")
    return label
