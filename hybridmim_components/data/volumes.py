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
from pathlib import Path
from typing import Any, cast

import numpy as np
from monai.data import MetaTensor
from monai.transforms import LoadImage, Orientation

from hybridmim_components.files import write_text

__all__ = ["fingerprint", "inspect_volumes", "read_volume"]

logger = logging.getLogger(__name__)


def read_volume(path: str) -> MetaTensor:
    """Read a volume as (C, H, W, D) in RAS and refuse what no network can use.

    Raises:
        FileNotFoundError: when there is no such file or folder.
        ValueError: when it cannot be read, is not 3D, is empty, or holds NaN or infinite voxels.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"no image {path}")
    try:
        image = LoadImage(image_only=True, ensure_channel_first=True)(path)
    except Exception as error:  # each reader has its own exceptions
        raise ValueError(f"cannot read the image {path}: {_first_line(error)}") from error
    if image.ndim != 4 or min(image.shape) < 1:
        raise ValueError(f"an image must be a 3D volume, got the shape {tuple(image.shape[1:])} in {path}")
    if not bool(image.isfinite().all()):
        raise ValueError(f"an image must hold finite values only, got NaN or infinity in {path}")
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


def inspect_volumes(
    data: Iterable[Mapping[str, Any]], cache_file: str | Path | None = None, num_workers: int = 2
) -> dict[str, str]:
    """Read the image of every item, before hours are spent, and fingerprint it.

    Args:
        data: items with ``image``, a path.
        cache_file: JSON file that remembers the fingerprint of a file by path, size and time of change.
        num_workers: number of threads.

    Returns:
        Fingerprint by path.

    Raises:
        ValueError: names every unusable image and what is wrong with it.
    """
    paths = sorted({str(item["image"]) for item in data})
    cache = _read_cache(cache_file)
    states = {path: _state(path) for path in paths}
    known = {p: cache[p][1] for p in paths if p in cache and cache[p][0] == states[p] and states[p]}
    unknown = [p for p in paths if p not in known]
    if unknown:
        logger.info("Reading %d volume(s) to check and fingerprint them", len(unknown))
    errors = []
    with ThreadPoolExecutor(max_workers=max(1, num_workers)) as pool:
        for path, (digest, error) in zip(unknown, pool.map(_fingerprint_or_error, unknown), strict=True):
            if error:
                errors.append(error)
            else:
                known[path] = digest
    if cache_file is not None and unknown:
        entries = {path: [states[path], digest] for path, digest in known.items()}
        write_text(cache_file, json.dumps({**cache, **entries}, indent=1))
    if errors:
        raise ValueError(f"{len(errors)} of {len(paths)} image(s) cannot be used:\n  " + "\n  ".join(errors))
    return known


def _fingerprint_or_error(path: str) -> tuple[str, str]:
    try:
        return fingerprint(read_volume(path)), ""
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
