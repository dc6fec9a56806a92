# SPDX-License-Identifier: Apache-2.0

"""Labelled data sets of the bundles by name: layout, labels, and the split in common use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hybridmim_components.data.doubts import warn_of
from hybridmim_components.data.layouts import Case, Found, brats2020, btcv, dataset_json, msd

__all__ = ["DATASETS", "LabelledDataset", "dataset_of", "find_cases", "holds_hounsfield", "label_names", "read_cases"]

_SIDE_OR_SESSION = re.compile(r"[ _.-]+(?:l|r|left|right|lh|rh|(?:ses|session|visit)[ _-]?\w+)$", re.IGNORECASE)


@dataclass(frozen=True)
class LabelledDataset:
    """Properties of a data set that are known before its files are opened.

    Attributes:
        read: function that lists the cases of a folder.
        label_names: names by label value; None: taken from the folder's dataset.json.
        modalities: sequences of one case; empty if images have one channel.
        standard_validation: endings of the validation cases in the split that publications use (``fold: standard``).
        zero_background: whether voxels outside the body must be 0.
        hounsfield: whether images hold HU; None: taken from the folder's dataset.json.
        subject_of: function from the id of a case to its subject; default: each case is a subject.
    """

    read: Callable[..., Found]
    label_names: dict[int, str] | None = None
    modalities: tuple[str, ...] = ()
    standard_validation: tuple[str, ...] = ()
    zero_background: bool = False
    hounsfield: bool | None = None
    subject_of: Callable[[str], str] = str


def _side_of_one_head(case_id: str) -> str:
    """Return the subject of a case of MSD Hippocampus: cases 2 k - 1 and 2 k are the two sides of one head.

    No document of the data set says so, but the intensities show it. In all of 52 such pairs, both cases have the
    scaling of one scanner. Of other neighbouring cases, this holds for a quarter.
    """
    name, _, number = case_id.rpartition("_")
    return f"{name}_subject_{(int(number) + 1) // 2:03d}" if number.isdecimal() else case_id


_ORGANS = (
    "background, spleen, right kidney, left kidney, gallbladder, oesophagus, liver, stomach, aorta, "
    "inferior vena cava, portal and splenic veins, pancreas, right adrenal gland, left adrenal gland"
)
DATASETS = {
    "brats2020": LabelledDataset(
        brats2020.read,
        {0: "background", 1: "necrotic and non-enhancing tumour core", 2: "oedema", 4: "enhancing tumour"},
        modalities=brats2020.MODALITIES,
        zero_background=True,
        hounsfield=False,
    ),
    "btcv": LabelledDataset(
        btcv.read, dict(enumerate(_ORGANS.split(", "))), standard_validation=btcv.STANDARD_VALIDATION, hounsfield=True
    ),
    "msd_hippocampus": LabelledDataset(
        msd.read,
        {0: "background", 1: "anterior hippocampus", 2: "posterior hippocampus"},
        hounsfield=False,
        subject_of=_side_of_one_head,
    ),
    "msd_liver": LabelledDataset(msd.read, {0: "background", 1: "liver", 2: "tumour"}, hounsfield=True),
    "msd_spleen": LabelledDataset(msd.read, {0: "background", 1: "spleen"}, hounsfield=True),
}


def dataset_of(name: str) -> LabelledDataset:
    """Look up a data set. Any other name that starts with ``msd_`` stands for a folder in MSD's layout.

    Raises:
        ValueError: when the name is unknown.
    """
    if name in DATASETS:
        return DATASETS[name]
    if name.startswith("msd_"):
        return LabelledDataset(msd.read)
    raise ValueError(f"dataset must be one of {tuple(DATASETS)} or msd_NAME for another task of MSD, got {name!r}")


def label_names(dataset: str, dataset_dir: str | Path) -> dict[int, str]:
    """Return names by label value, background included. For other tasks of MSD, they are read from dataset.json.

    Raises:
        ValueError: when the data set is unknown, or dataset.json has no labels.
    """
    return dataset_of(dataset).label_names or dataset_json.label_names(Path(dataset_dir))


def holds_hounsfield(dataset: str, dataset_dir: str | Path) -> bool:
    """Return whether the images of a data set hold HU. For other tasks of MSD, dataset.json says so."""
    known = dataset_of(dataset).hounsfield
    return known if known is not None else dataset_json.is_ct(Path(dataset_dir))


def find_cases(dataset: str, dataset_dir: str | Path, modalities: Sequence[str] | None = None) -> Found:
    """List the complete cases of a folder, what is wrong with the others, and how its dataset.json disagrees.

    Args:
        dataset: name of the data set, see :func:`dataset_of`.
        dataset_dir: folder of the unpacked download.
        modalities: sequences to use, for a data set that has several; None: all.

    Raises:
        ValueError: when the data set is unknown or has no modalities to choose from, or two files have the same name.
        FileNotFoundError: when the folder, or a part of its layout, does not exist.

    Example:
        >>> from hybridmim_components.phantoms import write_msd_spleen
        >>> _ = write_msd_spleen("data", num_training=3, num_test=0, size=(16, 16, 16))
        >>> Path("data/labelsTr/spleen_2.nii.gz").unlink()
        >>> found = find_cases("msd_spleen", "data")
        >>> [case["case_id"] for case in found.cases], found.problems
        (['spleen_1', 'spleen_3'], ['no label in data/labelsTr for spleen_2'])
    """
    known, root = dataset_of(dataset), Path(dataset_dir)
    if modalities is not None and not known.modalities:
        raise ValueError(f"{dataset} has no modalities to choose from, got modalities {modalities!r}")
    if modalities is not None and (
        isinstance(modalities, str) or not modalities or len(set(modalities)) < len(modalities)
    ):
        raise ValueError(f"modalities must be a list of different names, at least one, got {modalities!r}")
    if not root.is_dir():
        raise FileNotFoundError(f"dataset_dir must be an existing folder, got {root}")
    read = partial(known.read, modalities=tuple(modalities)) if modalities is not None else known.read
    found = read(root)
    dataset_json.compare_dataset_json(root, known.label_names, found)
    if known.subject_of is str:
        found.doubts += _doubts_of_patients(case["case_id"] for case in found.cases)
    return found


def _doubts_of_patients(case_ids: Iterable[str]) -> list[str]:
    """Doubt that each case is a patient of its own, where names differ by a side or a session alone."""
    by_patient: dict[str, list[str]] = {}
    for case_id in case_ids:
        if (patient := _SIDE_OR_SESSION.sub("", case_id)) != case_id:
            by_patient.setdefault(patient, []).append(case_id)
    several = [cases for cases in by_patient.values() if len(cases) > 1]
    if not several:
        return []
    return [
        f"{len(several)} patient(s) seem to have several scans, such as {' and '.join(sorted(several[0])[:2])}, usual "
        "is one each: a fold may train on one scan and validate on the other; name the held-out cases with --fold"
    ]


def read_cases(dataset: str, dataset_dir: str | Path, modalities: Sequence[str] | None = None) -> list[Case]:
    """List the labelled cases of a data set. Image and label are paired by case id. Arguments as in :func:`find_cases`.

    Returns:
        Dictionaries with ``case_id``, ``image`` and ``label``, sorted by case id.

    Raises:
        ValueError: as :func:`find_cases`, and when a case is incomplete.
        FileNotFoundError: as :func:`find_cases`.

    Example:
        >>> from hybridmim_components.phantoms import write_brats2020
        >>> _ = write_brats2020("data", num_training=1, num_test=0, size=(16, 16, 16))
        >>> (case,) = read_cases("brats2020", "data/MICCAI_BraTS2020_TrainingData", modalities=["flair", "t1ce"])
        >>> case["case_id"], [Path(file).name for file in case["image"]]
        ('BraTS20_Training_001', ['BraTS20_Training_001_flair.nii.gz', 'BraTS20_Training_001_t1ce.nii.gz'])
    """
    found = find_cases(dataset, dataset_dir, modalities)
    if found.problems:
        raise ValueError("; ".join(found.problems))
    warn_of(found.doubts)
    return found.cases
