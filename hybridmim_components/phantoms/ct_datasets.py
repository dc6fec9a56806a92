# SPDX-License-Identifier: Apache-2.0

"""Synthetic CT-like abdomens, written in the layouts of MSD and BTCV and as unlabelled volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybridmim_components.phantoms.anatomy import DEFAULT_SIZE, DEFAULT_SPACING, EXTRAS, Organ, abdomen_phantom
from hybridmim_components.phantoms.case_files import ABOUT, check_count, grid_parameters, write_cases
from hybridmim_components.phantoms.msd_cases import case_files, write_msd

__all__ = ["write_btcv", "write_msd_liver", "write_msd_spleen", "write_unlabelled"]

_ORIENTATIONS = ("RAS", "LPS", "LAS", "LPI")
_BTCV_ORGANS = (
    Organ.SPLEEN,
    Organ.KIDNEY_RIGHT,
    Organ.KIDNEY_LEFT,
    Organ.GALLBLADDER,
    Organ.OESOPHAGUS,
    Organ.LIVER,
    Organ.STOMACH,
    Organ.AORTA,
    Organ.VENA_CAVA,
    Organ.PORTAL_VEIN,
    Organ.PANCREAS,
    Organ.ADRENAL_RIGHT,
    Organ.ADRENAL_LEFT,
)


def write_msd_spleen(
    dataset_dir: str | Path,
    num_training: int = 12,
    num_test: int = 2,
    seed: int = 0,
    size: Sequence[int] = DEFAULT_SIZE,
    spacing: Sequence[float] = DEFAULT_SPACING,
) -> Path:
    """Write phantoms in the layout of Task09 of the Medical Segmentation Decathlon, with the spleen as label.

    Grids differ by case: up to 12 % more voxels, a spacing that differs by up to 8 %, and four orientations. A case
    follows from the seed and its number alone. A call completes what an interrupted call has left, and does not write
    existing files again.

    Args:
        dataset_dir: a new or empty folder, or one that holds exactly these phantoms.
        num_training: labelled cases, spleen_1 and so on.
        num_test: unlabelled cases. Their numbers follow those of the labelled cases.
        seed: non-negative. The same seed gives the same bytes.
        size: the least number of voxels (H, W, D).
        spacing: mean voxel size in mm.

    Returns:
        The folder.

    Raises:
        ValueError: when an argument is out of range or the folder holds anything else.

    Example:
        >>> folder = write_msd_spleen("data", num_training=2, num_test=1, size=(16, 16, 16))
        >>> sorted(str(path.relative_to(folder)) for path in folder.rglob("*.nii.gz"))
        ['imagesTr/spleen_1.nii.gz', 'imagesTr/spleen_2.nii.gz', 'imagesTs/spleen_3.nii.gz',
         'labelsTr/spleen_1.nii.gz', 'labelsTr/spleen_2.nii.gz']
    """
    labels = {"spleen": Organ.SPLEEN}
    return _write_ct_task(dataset_dir, "spleen", labels, (num_training, num_test), (seed,), size, spacing)


def write_msd_liver(
    dataset_dir: str | Path,
    num_training: int = 12,
    num_test: int = 2,
    seed: int = 0,
    size: Sequence[int] = DEFAULT_SIZE,
    spacing: Sequence[float] = DEFAULT_SPACING,
) -> Path:
    """Write phantoms in the layout of Task03 of the Decathlon. Label 1 is the liver, label 2 its one to four tumours.

    Arguments, result and errors are those of :func:`write_msd_spleen`. The two data sets have no case in common.

    Example:
        >>> folder = write_msd_liver("data", num_training=1, num_test=0, size=(32, 32, 32))
        >>> label = nib.load(folder / "labelsTr" / "liver_1.nii.gz")
        >>> np.unique(label.dataobj).tolist()
        [0, 1, 2]
    """
    labels = {"liver": Organ.LIVER, "cancer": Organ.LIVER_TUMOUR}
    return _write_ct_task(dataset_dir, "liver", labels, (num_training, num_test), (seed, 2), size, spacing)


def write_btcv(
    root: str | Path,
    num_training: int = 12,
    num_test: int = 2,
    seed: int = 0,
    size: Sequence[int] = DEFAULT_SIZE,
    spacing: Sequence[float] = DEFAULT_SPACING,
) -> Path:
    """Write phantoms in the layout of BTCV (Training/img, Training/label and Testing/img), with its 13 organs.

    Args:
        root: see ``dataset_dir`` of :func:`write_msd_spleen`. phantoms.json in it says that these are phantoms.
        num_training: labelled cases, 2 to 30. A fifth of them, 6 at most, have numbers from 35, as the validation cases
            in common use. The others have numbers from 1 to 10 and then from 21 to 34, as in the release.
        num_test: unlabelled cases, 20 at most, from number 61.
        seed: see :func:`write_msd_spleen`, also for size and spacing.
        size: the least number of voxels (H, W, D).
        spacing: mean voxel size in mm.

    Returns:
        The folder.

    Raises:
        ValueError: when an argument is out of range or the folder holds anything else.

    Example:
        >>> root = write_btcv("RawData", num_training=5, num_test=0, size=(16, 16, 16))
        >>> sorted(path.name for path in root.glob("Training/img/*"))  # the last one is for validation
        ['img0001.nii.gz', 'img0002.nii.gz', 'img0003.nii.gz', 'img0004.nii.gz', 'img0035.nii.gz']
    """
    check_count("num_training", num_training, 2, 30)
    check_count("num_test", num_test, 0, 20)
    num_validation = min(6, max(1, round(num_training / 5)))
    numbers = [*range(1, 11), *range(21, 35)][: num_training - num_validation] + [*range(35, 35 + num_validation)]
    names: dict[int, tuple[str, ...]] = {
        n: (f"Training/img/img{n:04d}.nii.gz", f"Training/label/label{n:04d}.nii.gz") for n in numbers
    }
    names |= {n: (f"Testing/img/img{n:04d}.nii.gz",) for n in range(61, 61 + num_test)}
    counts = {"numTraining": num_training, "numTest": num_test}
    manifest = {**ABOUT, **counts, "phantom": grid_parameters(seed, size, spacing)}
    draw = partial(_ct, _BTCV_ORGANS)
    cases = [
        case_files(files, draw, (seed, number, 3), _ORIENTATIONS, size, spacing) for number, files in names.items()
    ]
    return write_cases("root", Path(root), "phantoms.json", manifest, cases)


def write_unlabelled(
    folder: str | Path,
    num_volumes: int,
    seed: int = 0,
    size: Sequence[int] = DEFAULT_SIZE,
    spacing: Sequence[float] = DEFAULT_SPACING,
) -> Path:
    """Write phantoms without labels. No labelled data set of the same seed contains any of them.

    Args:
        folder: a new or empty folder, or one that holds exactly these phantoms. phantoms.json in it says what they are.
        num_volumes: number of phantoms, phantom_1.nii.gz and so on.
        seed: see :func:`write_msd_spleen`, also for size and spacing.
        size: the least number of voxels (H, W, D).
        spacing: mean voxel size in mm.

    Returns:
        The folder.

    Raises:
        ValueError: when an argument is out of range or the folder holds anything else.

    Example:
        >>> folder = write_unlabelled("volumes", 2, size=(16, 16, 16))
        >>> for path in sorted(folder.glob("*.nii.gz")):
        ...     print(path.name, *nib.aff2axcodes(nib.load(path).affine))
        phantom_1.nii.gz L P S
        phantom_2.nii.gz L A S
    """
    check_count("num_volumes", num_volumes, 1)
    manifest = {**ABOUT, "numVolumes": num_volumes, "phantom": grid_parameters(seed, size, spacing)}
    numbers = range(1, num_volumes + 1)
    case = partial(case_files, draw=partial(_ct, ()), orientations=_ORIENTATIONS, size=size, spacing=spacing)
    cases = [case((f"phantom_{n}.nii.gz",), seed=(seed, n, 1)) for n in numbers]
    return write_cases("folder", Path(folder), "phantoms.json", manifest, cases)


def _write_ct_task(
    root: str | Path,
    prefix: str,
    labels: Mapping[str, Organ],
    counts: tuple[int, int],
    seed: tuple[int, ...],
    size: Sequence[int],
    spacing: Sequence[float],
) -> Path:
    """Write a task of CT. Label value 1 is the first entry of ``labels``, and so on."""
    draw = partial(_ct, tuple(labels.values()))
    return write_msd(Path(root), prefix, tuple(labels), draw, counts, seed, size, spacing, _ORIENTATIONS)


def _ct(
    labels: Sequence[Organ], rng: np.random.Generator, size: Sequence[int], spacing: Sequence[float]
) -> tuple[NDArray[np.int16 | np.uint8], ...]:
    """Draw image and label. Label value 1 is the first organ of ``labels``, and so on."""
    image, organs = abdomen_phantom(rng, size, spacing, [organ for organ in EXTRAS if organ in labels])
    values = np.zeros(len(Organ), np.uint8)
    values[list(labels)] = range(1, len(labels) + 1)
    return image, values[organs]
