# SPDX-License-Identifier: Apache-2.0

"""Preparation of one volume for a store: read, check, resample, round, compress and write it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.transforms import ClipIntensityPercentilesd, Compose, NormalizeIntensityd, Spacingd

from hybridmim_components.data.doubts import doubts_of_image
from hybridmim_components.data.volumes import Image, fingerprint, image_files, read_volume
from hybridmim_components.store.encoding import CHUNK, METADATA, SHARD, chunk_grid, encode_volume, with_attributes
from hybridmim_components.store.index import ATTRIBUTE
from hybridmim_components.store.places import StorePlace
from hybridmim_components.store.settings import StoreSettings
from hybridmim_components.system.files import file_state

__all__ = ["foreground_counts", "prepare_volume", "source_state", "volume_name"]


def volume_name(image: Image) -> str:
    """Return the name of a volume in a store, which follows from the paths of its files."""
    return hashlib.sha256("\n".join(image_files(image)).encode()).hexdigest()[:16]


def source_state(image: Image) -> list[list[int]]:
    """Return the state of an image's files, which changes when one of them is replaced."""
    return [file_state(path) for path in image_files(image)]


def prepare_volume(image: Image, place: StorePlace, settings: StoreSettings) -> list[str]:
    """Pre-process a volume and write it.

    Its ``zarr.json`` is removed first and written last, so that a volume with a ``zarr.json`` is complete.

    Args:
        image: file, folder of a DICOM series, or one file per modality.
        place: the store.
        settings: settings of the pre-processing.

    Returns:
        What is unusual about the volume, see :func:`.doubts_of_image`.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the volume cannot be read or used, see :func:`.volumes.read_volume`, or holds nothing within
            the intensity range.
    """
    name, state = volume_name(image), source_state(image)
    volume = read_volume(image, rules=settings.rules)
    doubts = doubts_of_image(volume, image_files(image), settings.rules)
    resampled = _transforms(settings)({"image": volume})["image"]
    voxels = settings.stored(np.asarray(resampled))
    mask = np.any(voxels != settings.background, axis=0)
    if not mask.any():
        files = ", ".join(image_files(image))
        raise ValueError(f"image must hold voxels above the lower end of intensity_range, got none in {files}")
    metadata, shard = encode_volume(voxels, settings.background)
    record = {
        "source": image_files(image),
        "state": state,
        "source_spacing": np.asarray(volume.pixdim).tolist(),
        "affine": np.asarray(resampled.affine).tolist(),
        "intensity": [_statistics(np.asarray(channel)) for channel in volume],
        # in MRI, the box of the voxels above the mean, on which the validation crop is centred
        "box": _box(np.any(voxels > settings.background, axis=0)),
        "foreground": base64.b64encode(foreground_counts(mask).astype("<u2").tobytes()).decode(),
        "fingerprints": [fingerprint(volume[channel : channel + 1]) for channel in range(len(volume))],
        "bytes": len(shard),
        "checksum": hashlib.sha256(shard).hexdigest(),
    }
    place.remove(f"{name}/{METADATA}")
    place.write(f"{name}/{SHARD}", shard)
    place.write(f"{name}/{METADATA}", with_attributes(metadata, {ATTRIBUTE: record}))
    return doubts


def foreground_counts(mask: np.ndarray) -> np.ndarray:
    """Count the voxels of a mask (H, W, D) in each chunk. Returns a flat array of uint16."""
    grid = chunk_grid((1, *mask.shape))[1:]
    padded = np.pad(mask, [(0, n * CHUNK - size) for n, size in zip(grid, mask.shape, strict=True)])
    blocks = padded.reshape(grid[0], CHUNK, grid[1], CHUNK, grid[2], CHUNK)
    return blocks.sum(axis=(1, 3, 5), dtype=np.uint16).ravel()


def _transforms(settings: StoreSettings) -> Compose:
    """Return the bundles' deterministic transforms after loading and orientation. CT is clipped when it is stored."""
    transforms: list[Any] = [Spacingd("image", pixdim=settings.spacing, mode="bilinear")]
    if settings.modalities:
        transforms.append(NormalizeIntensityd("image", nonzero=True, channel_wise=True))
    if settings.clip_percentiles:
        low, high = settings.clip_percentiles
        transforms += [ClipIntensityPercentilesd("image", low, high), NormalizeIntensityd("image", channel_wise=True)]
    return Compose(transforms)


def _statistics(voxels: np.ndarray) -> list[float]:
    return [float(value) for value in (voxels.min(), voxels.max(), voxels.mean(), voxels.std())]


def _box(mask: np.ndarray) -> Sequence[Sequence[int]]:
    """Return first and last-plus-one voxel of a mask on each axis, or of the whole volume if the mask is empty."""
    low, high = [], []
    for axis, size in enumerate(mask.shape):
        hits = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        low.append(int(hits[0]) if len(hits) else 0)
        high.append(int(hits[-1]) + 1 if len(hits) else size)
    return [low, high]
