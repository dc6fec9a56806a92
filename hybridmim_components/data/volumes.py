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

"""Reading each volume once before training: is it usable, and what is its fingerprint."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from monai.data import MetaTensor
from monai.transforms import LoadImage, Orientation

from hybridmim_components.files import write_text

__all__ = ["check_label", "fingerprint", "inspect_volumes", "read_volume"]

logger = logging.getLogger(__name__)

AFFINE_TOLERANCE = 0.01


def read_volume(path: str, kind: str = "image") -> MetaTensor:
    """Read a volume as (C, H, W, D) in RAS and refuse what no network can use.

    Args:
        path: file, or folder of a DICOM series.
        kind: ``image`` or ``label``, for the messages.

    Returns:
        The volume with its affine in mm.

    Raises:
        FileNotFoundError: when there is no such file or folder.
        ValueError: when it cannot be read, is not 3D, is empty, or holds NaN or infinite voxels.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"no {kind} {path}")
    try:
        image = LoadImage(image_only=True, ensure_channel_first=True)(path)
    except Exception as error:  # each reader has its own exceptions
        raise ValueError(f"cannot read the {kind} {path}: {_first_line(error)}") from error
    if image.ndim != 4 or min(image.shape) < 1 or len(image) != 1:
        raise ValueError(
            f"{kind} must be a 3D volume of one channel, got {len(image)} channel(s) of the shape "
            f"{tuple(image.shape[1:])} in {path}"
        )
    if not bool(image.isfinite().all()):
        raise ValueError(f"{kind} must hold finite values only, got NaN or infinity in {path}")
    return cast(MetaTensor, Orientation("RAS", labels=None)(image))


def fingerprint(image: MetaTensor) -> str:
    """SHA-256 of a volume's shape and voxels, the same for renamed, re-compressed or re-oriented copies.

    Args:
        image: (C, H, W, D) in RAS, as :func:`read_volume` returns it.

    Returns:
        64 hexadecimal digits. It tells nothing of the patient, and no file name goes into it.
    """
    voxels = np.clip(np.rint(np.asarray(image)), -32768, 32767).astype("<i2")
    digest = hashlib.sha256(json.dumps(list(voxels.shape)).encode())
    digest.update(np.ascontiguousarray(voxels).tobytes())
    return digest.hexdigest()


def check_label(image: MetaTensor, path: str, num_classes: int | None = None) -> None:
    """Refuse a label that does not belong to its image.

    Args:
        image: what :func:`read_volume` returned.
        path: label file.
        num_classes: values 0..num_classes - 1 are expected; None: any.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it cannot be read, its shape or affine is not the image's, or a value is unexpected.
    """
    label = read_volume(path, "label")
    if label.shape[1:] != image.shape[1:]:
        raise ValueError(
            f"a label must have its image's shape {tuple(image.shape[1:])}, got {tuple(label.shape[1:])} in {path}"
        )
    # as stored: evaluation brings the prediction back to the image's file, and scores it on the label's
    if not np.allclose(label.meta["original_affine"], image.meta["original_affine"], atol=AFFINE_TOLERANCE):
        raise ValueError(
            f"a label must be stored with its image's affine and orientation, within {AFFINE_TOLERANCE} mm, "
            f"got another in {path}"
        )
    values = np.unique(np.asarray(label))
    expected = np.arange(num_classes) if num_classes is not None else np.rint(values)
    if not np.isin(values, expected).all():
        unexpected = ", ".join(f"{v:g}" for v in np.setdiff1d(values, expected)[:5])
        rule = f"0..{num_classes - 1}" if num_classes is not None else "whole numbers"
        raise ValueError(f"label values must be {rule}, got {unexpected} in {path}")


def inspect_volumes(
    data: Iterable[Mapping[str, Any]],
    cache_file: str | Path | None = None,
    num_workers: int = 2,
    num_classes: int | None = None,
) -> dict[str, str]:
    """Read the image of every item, and its label, before hours are spent, and fingerprint the image.

    Args:
        data: items with ``image`` and, where there is one, ``label``: paths.
        cache_file: JSON file that remembers what was read, by path, size and time of change.
        num_workers: number of threads.
        num_classes: see :func:`check_label`.

    Returns:
        Fingerprint by path of the image.

    Raises:
        ValueError: names every unusable file and what is wrong with it.
    """
    pairs = sorted({(str(item["image"]), str(item.get("label", ""))) for item in data})
    cache = _read_cache(cache_file)
    keys = {pair: json.dumps([*pair, num_classes if pair[1] else None]) for pair in pairs}
    states = {pair: [_state(path) for path in pair if path] for pair in pairs}
    known = {
        p: cache[keys[p]][1] for p in pairs if keys[p] in cache and cache[keys[p]][0] == states[p] and all(states[p])
    }
    unknown = [p for p in pairs if p not in known]
    if unknown:
        logger.info("Reading %d volume(s) to check and fingerprint them", len(unknown))
    errors = []
    with ThreadPoolExecutor(max_workers=max(1, num_workers)) as pool:
        for pair, (digest, error) in zip(unknown, pool.map(partial(_inspect, num_classes), unknown), strict=True):
            if error:
                errors.append(error)
            else:
                known[pair] = digest
    if cache_file is not None and unknown:
        entries = {keys[pair]: [states[pair], digest] for pair, digest in known.items()}
        write_text(cache_file, json.dumps({**cache, **entries}, indent=1))
    if errors:
        raise ValueError(f"{len(errors)} of {len(pairs)} volume(s) cannot be used:\n  " + "\n  ".join(errors))
    return {image: digest for (image, _), digest in known.items()}


def _inspect(num_classes: int | None, pair: tuple[str, str]) -> tuple[str, str]:
    """Fingerprint of the image, or what is wrong with it or its label."""
    image_path, label_path = pair
    try:
        image = read_volume(image_path)
        if label_path:
            check_label(image, label_path, num_classes)
        return fingerprint(image), ""
    except (ValueError, FileNotFoundError) as error:
        return "", str(error)


def _state(path: str) -> list[int]:
    """Size and time of change of a file or of a DICOM folder's files; empty where it does not exist."""
    target = Path(path)
    files = sorted(target.iterdir()) if target.is_dir() else [target]
    stats = [file.stat() for file in files if file.exists()]
    return [sum(s.st_size for s in stats), max(s.st_mtime_ns for s in stats)] if stats else []


def _read_cache(cache_file: str | Path | None) -> dict[str, Any]:
    if cache_file is None or not Path(cache_file).is_file():
        return {}
    try:
        return dict(json.loads(Path(cache_file).read_text(encoding="utf-8")))
    except ValueError:
        logger.warning("%s is no JSON file; it is written anew", cache_file)
        return {}


def _first_line(error: BaseException) -> str:
    """The innermost reason: MONAI's reader collects a page of text around it."""
    cause = error.__cause__ or error.__context__ or error
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0] if lines else 'no message'}"
