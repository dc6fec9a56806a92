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

"""Synthetic CT-like abdomens, written in the layouts of published data sets."""

from __future__ import annotations

import gzip
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from hybridmim_components.data.anatomy import DEFAULT_SIZE, DEFAULT_SPACING, Organ, abdomen_phantom, check_grid
from hybridmim_components.files import write_text

__all__ = ["Organ", "abdomen_phantom", "write_msd_spleen", "write_unlabelled"]

logger = logging.getLogger(__name__)

_Case = tuple[tuple[str, ...], Callable[[], tuple[bytes, bytes]]]  # names of files, and what makes them
_ORIENTATIONS = ("RAS", "LPS", "LAS", "LPI")
_ABOUT = {
    "description": "Synthetic CT-like phantoms from a seeded generator. They show no patient and hold no patient data.",
    "reference": "hybridmim_components.data.phantoms",
    "licence": "Apache-2.0",
    "release": "1",  # of the anatomy: a folder of another release is not taken for the same phantoms
}


def write_msd_spleen(
    dataset_dir: str | Path,
    num_training: int = 12,
    num_test: int = 2,
    seed: int = 0,
    size: Sequence[int] = DEFAULT_SIZE,
    spacing: Sequence[float] = DEFAULT_SPACING,
) -> Path:
    """Write phantoms in the layout of Task09 of the Medical Segmentation Decathlon, the spleen being labelled.

    Grids differ by case: up to 12 % more voxels, up to 8 % other spacing, four orientations. A case follows from the
    seed and its number alone. What an interrupted call left is completed; what is there already is not written again.

    Args:
        dataset_dir: a new or empty folder, or one that holds these very phantoms.
        num_training: labelled cases, spleen_1 and so on.
        num_test: unlabelled cases; their numbers follow.
        seed: non-negative; the same seed gives the same bytes.
        size: the least number of voxels (H, W, D).
        spacing: mean voxel size in mm.

    Returns:
        The folder.

    Raises:
        ValueError: when an argument is out of range or the folder holds anything else.
    """
    _check_count("num_training", num_training, 1)
    _check_count("num_test", num_test, 0)
    labels = {"spleen": (Organ.SPLEEN,)}
    return _write_msd(Path(dataset_dir), "spleen", labels, (num_training, num_test), seed, size, spacing)


def write_unlabelled(
    folder: str | Path,
    num_volumes: int,
    seed: int = 0,
    size: Sequence[int] = DEFAULT_SIZE,
    spacing: Sequence[float] = DEFAULT_SPACING,
) -> Path:
    """Write phantoms without labels, none of which any labelled data set of the same seed holds.

    Args:
        folder: a new or empty folder, or one that holds these very phantoms; phantoms.json in it tells what they are.
        num_volumes: how many, phantom_1.nii.gz and so on.
        seed: see :func:`write_msd_spleen`, as for size and spacing.
        size: the least number of voxels (H, W, D).
        spacing: mean voxel size in mm.

    Returns:
        The folder.

    Raises:
        ValueError: when an argument is out of range or the folder holds anything else.
    """
    _check_count("num_volumes", num_volumes, 1)
    manifest = {**_ABOUT, "numVolumes": num_volumes, "phantom": _parameters(seed, size, spacing)}
    numbers = range(1, num_volumes + 1)
    cases = [((f"phantom_{n}.nii.gz",), partial(_case, (seed, n, 1), size, spacing)) for n in numbers]
    return _write("folder", Path(folder), "phantoms.json", manifest, cases)


def _write_msd(
    root: Path,
    prefix: str,
    labels: Mapping[str, Sequence[Organ]],
    counts: tuple[int, int],
    seed: int,
    size: Sequence[int],
    spacing: Sequence[float],
) -> Path:
    """Label value 1 is the first entry of ``labels``, made of the organs named there, and so on."""
    names = [f"{prefix}_{n}.nii.gz" for n in range(1, sum(counts) + 1)]
    manifest = {
        "name": prefix.capitalize(),
        **_ABOUT,
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {str(value): name for value, name in enumerate(("background", *labels))},
        "numTraining": counts[0],
        "numTest": counts[1],
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names[: counts[0]]],
        "test": [f"./imagesTs/{n}" for n in names[counts[0] :]],
        "phantom": _parameters(seed, size, spacing),
    }
    values = np.zeros(len(Organ), np.uint8)
    for value, organs in enumerate(labels.values(), start=1):
        values[list(organs)] = value
    cases: list[_Case] = []
    for number, name in enumerate(names, start=1):
        files = (f"imagesTr/{name}", f"labelsTr/{name}") if number <= counts[0] else (f"imagesTs/{name}",)
        cases.append((files, partial(_case, (seed, number), size, spacing, values)))
    return _write("dataset_dir", root, "dataset.json", manifest, cases)


def _case(
    seed: Sequence[int], size: Sequence[int], spacing: Sequence[float], values: NDArray[np.uint8] | None = None
) -> tuple[bytes, bytes]:
    """NIfTI files of image and label; ``values`` are the label values by organ code."""
    rng = np.random.default_rng(seed)
    grid = [round(n * rng.uniform(1, 1.12)) for n in size]
    voxel = [mm * rng.uniform(0.92, 1.08) for mm in spacing]
    image, organs = abdomen_phantom(rng, grid, voxel)
    affine = np.diag([*voxel, 1.0])
    affine[:3, 3] = rng.normal(0, 60, 3) - np.multiply(voxel, grid) / 2
    orientation = _ORIENTATIONS[seed[1] % len(_ORIENTATIONS)]
    label = organs if values is None else values[organs]
    return _nifti(image, affine, orientation), _nifti(label, affine, orientation)


def _nifti(volume: NDArray[np.int16] | NDArray[np.uint8], affine: NDArray[np.float64], orientation: str) -> bytes:
    ras, wanted = nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(orientation)
    turn = nib.orientations.ornt_transform(ras, wanted)
    turned = nib.orientations.apply_orientation(volume, turn)
    image = nib.Nifti1Image(turned, affine @ nib.orientations.inv_ornt_aff(turn, volume.shape))
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), 6, mtime=0)  # a time of writing would make each copy differ


def _write(
    argument: str, root: Path, manifest_name: str, manifest: Mapping[str, object], cases: Sequence[_Case]
) -> Path:
    text, path = json.dumps(manifest, indent=4), root / manifest_name
    ours = path.is_file() and path.read_text(encoding="utf-8") == text
    if not ours and root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"{argument} must be a new or empty folder, or hold these very phantoms, got {root}")
    missing = [case for case in cases if not all((root / name).is_file() for name in case[0])]
    if not missing:
        logger.info("%s holds these phantoms already", root)
        return root
    logger.info("Writing %d phantom(s) to %s", len(missing), root)
    # first, so that a call that was interrupted can be told from a stranger's folder and be completed
    write_text(path, text)
    for names, make in missing:
        for name, content in zip(names, make(), strict=False):
            (root / name).parent.mkdir(exist_ok=True)
            hidden = (root / name).with_name(f".{Path(name).name}.{os.getpid()}")
            hidden.write_bytes(content)
            os.replace(hidden, root / name)
    return root


def _parameters(seed: int, size: Sequence[int], spacing: Sequence[float]) -> dict[str, object]:
    _check_count("seed", seed, 0)
    check_grid(size, spacing)
    return {"seed": seed, "size": list(size), "spacing": [float(mm) for mm in spacing]}


def _check_count(name: str, value: int, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")
