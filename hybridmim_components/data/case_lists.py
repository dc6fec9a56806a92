# SPDX-License-Identifier: Apache-2.0

"""Data lists for the configs: fine-tuning cases, and the volumes that pre-training may see."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from hybridmim_components.data.datasets import dataset_of, read_cases
from hybridmim_components.data.splits import Split, hold_out, split_cases
from hybridmim_components.data.unlabelled import find_volumes
from hybridmim_components.data.volumes import image_files

__all__ = ["finetuning_lists", "pretraining_lists"]


def finetuning_lists(
    dataset: str,
    dataset_dir: str,
    fold: int | str | Sequence[str] = 0,
    label_fraction: float = 1.0,
    split_seed: int = 0,
    modalities: Sequence[str] | None = None,
    test_dir: str | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """List the cases of ``training`` and ``validation``, see :func:`.datasets.read_cases` and :func:`.split_cases`.

    Args:
        dataset: name of the labelled data set.
        dataset_dir: folder of the data set.
        fold: which cases to validate on.
        label_fraction: share of the training cases to keep.
        split_seed: seed of the split.
        modalities: sequences to use, for a data set that has several; None: all.
        test_dir: folder in the layout of the data set. All of its cases are ``validation``, and nothing else is read.

    Returns:
        Two lists of dictionaries with ``case_id``, ``image`` and ``label``.

    Example:
        >>> from hybridmim_components.phantoms import write_msd_hippocampus
        >>> _ = write_msd_hippocampus("data", num_training=10, num_test=0, size=(16, 16, 16))
        >>> lists = finetuning_lists("msd_hippocampus", "data", fold=0)
        >>> len(lists["training"]), [case["case_id"] for case in lists["validation"]]  # two sides of one head
        (8, ['hippocampus_3', 'hippocampus_4'])
    """
    if test_dir:
        return {"training": [], "validation": read_cases(dataset, test_dir, modalities)}
    cases = {case["case_id"]: case for case in read_cases(dataset, dataset_dir, modalities)}
    split = _split(dataset, list(cases), fold, split_seed, label_fraction)
    return {"training": [cases[i] for i in split.training], "validation": [cases[i] for i in split.validation]}


def pretraining_lists(
    dataset: str,
    dataset_dir: str | None,
    unlabelled_dirs: str | Sequence[str] = (),
    fold: int | str | Sequence[str] = 0,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    modalities: Sequence[str] | None = None,
    skip_unreadable: bool = False,
    pool: Any = None,
) -> dict[str, Any]:
    """List the volumes of ``training`` and ``validation`` for pre-training.

    These are the images of the fold's training cases and all volumes in ``unlabelled_dirs``, except files that are
    held-out cases of the fold. Pre-training holds out its own validation volumes from these, as a third, disjoint set.

    Args:
        dataset: name of the labelled data set.
        dataset_dir: folder of the data set; None or empty: only ``unlabelled_dirs`` are used.
        unlabelled_dirs: one folder or several, see :func:`.find_volumes`.
        fold: the fold that fine-tuning will use. Its validation cases are never seen.
        val_fraction: share of the volumes to validate pre-training on.
        split_seed: seed of both splits.
        modalities: sequences to use, for a data set that has several; None: all.
        skip_unreadable: log what :func:`.find_volumes` refuses and leave it out, instead of raising.
        pool: take all volumes from this pool, such as :class:`.store.StoredPool`. The data set then only provides the
            cases to hold out, and the pool's own ``val_fraction`` holds.

    Returns:
        Lists of dictionaries with ``image`` (a path, or one per modality) and, for ``training`` and ``validation``,
        ``volume`` (a number). ``held_out`` lists the images of the fold's validation cases.
        :func:`.preflight.check_pretraining` compares them with the others, since a renamed copy in ``unlabelled_dirs``
        would be a leak. With ``pool``, the pool takes the place of ``training`` and ``validation``. The pool is split
        when it is known which of its volumes are held-out cases.

    Raises:
        ValueError: when no folder is given, when both ``pool`` and ``unlabelled_dirs`` are given, or when an argument
            is out of range.

    Example:
        >>> from hybridmim_components.phantoms import write_unlabelled_hippocampi
        >>> _ = write_unlabelled_hippocampi("volumes", 4, size=(16, 16, 16))
        >>> lists = pretraining_lists("msd_hippocampus", None, unlabelled_dirs="volumes", val_fraction=0.25)
        >>> for name, items in lists.items():
        ...     print(name, [Path(item["image"]).name for item in items])
        training ['phantom_4.nii.gz', 'phantom_3.nii.gz', 'phantom_1.nii.gz']
        validation ['phantom_2.nii.gz']
        held_out []
    """
    if pool is not None and unlabelled_dirs:
        raise ValueError(
            f"unlabelled_dirs must be empty with cache 'store', got {unlabelled_dirs}: prepare them into it"
        )
    labelled = read_cases(dataset, dataset_dir, modalities) if dataset_dir else []
    if not labelled and not unlabelled_dirs and pool is None:
        raise ValueError("pre-training needs volumes: set dataset_dir, unlabelled_dirs, or both")
    images: dict[str, str | list[str]] = {}
    held_out: list[str | list[str]] = []
    if labelled:
        cases = {case["case_id"]: _resolved(case["image"]) for case in labelled}
        split = _split(dataset, list(cases), fold, split_seed)
        held_out = [cases[i] for i in sorted(set(split.validation) - set(split.training))]
        images = {i: cases[i] for i in split.training}
    held_out_items = [{"image": image} for image in held_out]
    if pool is not None:
        return {"pool": pool, "held_out": held_out_items}
    known = {path for image in (*held_out, *images.values()) for path in image_files(image)}
    modalities = modalities or dataset_of(dataset).modalities or None
    for name, image in _unlabelled(unlabelled_dirs, modalities, images, skip_unreadable).items():
        if known.isdisjoint(image_files(image)):
            images[name] = image
            known.update(image_files(image))
    own = hold_out(list(images), val_fraction, split_seed)
    # numbers follow from names, so that a further volume does not change the validation masks of the others
    number = {i: int(hashlib.sha256(i.encode()).hexdigest()[:12], 16) for i in images}
    return {
        "training": [{"image": images[i], "volume": number[i]} for i in own.training],
        "validation": [{"image": images[i], "volume": number[i]} for i in own.validation],
        "held_out": held_out_items,
    }


def _split(
    dataset: str, ids: Sequence[str], fold: int | str | Sequence[str], seed: int, label_fraction: float = 1.0
) -> Split:
    known = dataset_of(dataset)
    standard = [next((i for i in ids if i.endswith(ending)), ending) for ending in known.standard_validation]
    return split_cases(ids, fold, seed, label_fraction, standard, known.subject_of)


def _resolved(image: str | Sequence[str]) -> str | list[str]:
    return str(Path(image).resolve()) if isinstance(image, str) else [str(Path(path).resolve()) for path in image]


def _unlabelled(
    folders: str | Sequence[str], modalities: Sequence[str] | None, taken: Collection[str], skip_unreadable: bool
) -> dict[str, str | list[str]]:
    """Return images by names that differ from those of cases and do not depend on where the folders are mounted."""
    named: dict[str, str | list[str]] = {}
    for folder in [folders] if isinstance(folders, str) else folders:
        for image in find_volumes(folder, modalities, skip_unreadable) if folder else []:
            name = os.path.relpath(image_files(image)[0], Path(folder).resolve())
            while name in named or name in taken:
                name += "'"
            named[name] = image
    return named
