# SPDX-License-Identifier: Apache-2.0

"""Synthetic images that show no patient, in the layouts of the published data sets that the bundles train on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from hybridmim_components.phantoms.anatomy import Organ, abdomen_phantom
from hybridmim_components.phantoms.brain import brain_phantom
from hybridmim_components.phantoms.brats2020_cases import write_brats2020, write_unlabelled_brains
from hybridmim_components.phantoms.case_files import check_count
from hybridmim_components.phantoms.ct_datasets import write_btcv, write_msd_liver, write_msd_spleen, write_unlabelled
from hybridmim_components.phantoms.hippocampus import (
    hippocampus_phantom,
    write_msd_hippocampus,
    write_unlabelled_hippocampi,
)

__all__ = [
    "Organ",
    "PhantomFolders",
    "abdomen_phantom",
    "brain_phantom",
    "hippocampus_phantom",
    "write_brats2020",
    "write_btcv",
    "write_msd_hippocampus",
    "write_msd_liver",
    "write_msd_spleen",
    "write_phantoms",
    "write_unlabelled",
    "write_unlabelled_brains",
    "write_unlabelled_hippocampi",
]


class PhantomFolders(NamedTuple):
    """Folders that :func:`write_phantoms` wrote.

    Attributes:
        dataset_dir: folder for the setting ``dataset_dir`` of the bundles.
        image_dir: test images without labels, for inference. It exists only if there are any.
        unlabelled_dir: volumes for pre-training.

    Example:
        >>> folders = write_phantoms("btcv", "data", num_training=2, num_test=0, num_unlabelled=1, size=(16, 16, 16))
        >>> [str(folder) for folder in folders]
        ['data/RawData/Training', 'data/RawData/Testing/img', 'data/unlabelled']
        >>> folders.dataset_dir.is_dir(), folders.image_dir.is_dir()
        (True, False)
    """

    dataset_dir: Path
    image_dir: Path
    unlabelled_dir: Path


class _Layout(NamedTuple):
    """Writer of one data set, and its folders below the root of :func:`write_phantoms`."""

    write: Callable[..., Path]
    root: str
    dataset_dir: str
    image_dir: str
    write_unlabelled: Callable[..., Path] = write_unlabelled


_LAYOUTS = {
    "brats2020": _Layout(
        write_brats2020,
        ".",
        "MICCAI_BraTS2020_TrainingData",
        "MICCAI_BraTS2020_ValidationData",
        write_unlabelled_brains,
    ),
    "btcv": _Layout(write_btcv, "RawData", "RawData/Training", "RawData/Testing/img"),
    "msd_hippocampus": _Layout(
        write_msd_hippocampus,
        "Task04_Hippocampus",
        "Task04_Hippocampus",
        "Task04_Hippocampus/imagesTs",
        write_unlabelled_hippocampi,
    ),
    "msd_liver": _Layout(write_msd_liver, "Task03_Liver", "Task03_Liver", "Task03_Liver/imagesTs"),
    "msd_spleen": _Layout(write_msd_spleen, "Task09_Spleen", "Task09_Spleen", "Task09_Spleen/imagesTs"),
}


def write_phantoms(
    dataset: str,
    root: str | Path,
    num_training: int = 20,
    num_test: int = 2,
    num_unlabelled: int = 8,
    seed: int = 0,
    size: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
) -> PhantomFolders:
    """Write phantoms in the layout of a data set, and unlabelled ones of the same kind for pre-training.

    Args:
        dataset: brats2020, btcv, msd_hippocampus, msd_liver or msd_spleen.
        root: folder in which the data set's folders, named as its download unpacks, and ``unlabelled`` are created.
        num_training: labelled cases.
        num_test: cases without labels.
        num_unlabelled: cases in ``unlabelled``.
        seed: seed of the data set. The unlabelled phantoms have the next seed.
        size: the least number of voxels (H, W, D); None: the default of that data set's phantoms.
        spacing: mean voxel size in mm; None: the default of that data set's phantoms.

    Raises:
        ValueError: when an argument is out of range or a folder holds anything else.

    Example:
        >>> folders = write_phantoms("msd_spleen", "data", num_training=2, num_unlabelled=1, size=(16, 16, 16))
        >>> print(folders.dataset_dir, folders.image_dir)
        data/Task09_Spleen data/Task09_Spleen/imagesTs
        >>> [path.name for path in folders.unlabelled_dir.glob("*.nii.gz")]
        ['phantom_1.nii.gz']
    """
    if dataset not in _LAYOUTS:
        raise ValueError(f"dataset must be one of {tuple(_LAYOUTS)}, got {dataset!r}")
    check_count("num_unlabelled", num_unlabelled, 1)
    layout, root = _LAYOUTS[dataset], Path(root)
    grid = {name: value for name, value in (("size", size), ("spacing", spacing)) if value is not None}
    layout.write(root / layout.root, num_training, num_test, seed=seed, **grid)
    unlabelled = layout.write_unlabelled(root / "unlabelled", num_unlabelled, seed=seed + 1, **grid)
    return PhantomFolders(root / layout.dataset_dir, root / layout.image_dir, unlabelled)
