# SPDX-License-Identifier: Apache-2.0

"""The patients of few_labels.py in three sets: test, tuning, and the pool for pre-training and for labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from hybridmim_components.data import find_volumes, read_cases
from hybridmim_components.data.datasets import dataset_of
from hybridmim_components.data.splits import shuffled
from hybridmim_components.data.volumes import image_files

__all__ = ["TEST", "TUNING", "Patients", "StudyError"]

SPLIT_SEED, TEST, TUNING, LEAST_POOL = 2026, 60, 24, 4


class StudyError(ValueError):
    """Error that the user of the study can act on."""


class Patients:
    """Three disjoint sets of patients: test, tuning, and the pool.

    Pre-training sees the images of the pool, and the labelled patients are drawn from it. Each case counts as a
    patient, but the two sides of a head in MSD Hippocampus count as one. Pre-training can see further volumes, which
    have no labels.

    Args:
        dataset: data set, such as ``msd_hippocampus``.
        dataset_dir: its folder.
        test: number of test patients.
        tuning: number of tuning patients.
        unlabelled_dirs: folders of further volumes for pre-training, see :func:`.find_volumes`. Images of labelled
            cases among them are left out.
        modalities: sequences to use, for a data set that has several; None: all.

    Raises:
        StudyError: when too few patients are left for the pool.
    """

    def __init__(
        self,
        dataset: str,
        dataset_dir: str,
        test: int = TEST,
        tuning: int = TUNING,
        unlabelled_dirs: Sequence[str] = (),
        modalities: Sequence[str] | None = None,
    ) -> None:
        self.cases = {case["case_id"]: case for case in read_cases(dataset, dataset_dir, modalities)}
        self.of: dict[str, list[str]] = {}
        for case in sorted(self.cases):
            self.of.setdefault(dataset_of(dataset).subject_of(case), []).append(case)
        order = shuffled(list(self.of), SPLIT_SEED)
        self.test, self.tuning, self.pool = order[:test], order[test : test + tuning], order[test + tuning :]
        if len(self.pool) < LEAST_POOL:
            what = f"{test} test patients, {tuning} tuning patients and at least {LEAST_POOL} others"
            raise StudyError(f"the study needs {what} with labels in {dataset_dir}, got {len(order)} in all")
        own = {os.path.realpath(path) for case in self.cases.values() for path in image_files(case["image"])}
        found = (
            find_volumes(unlabelled_dirs, modalities or dataset_of(dataset).modalities or None)
            if unlabelled_dirs
            else []
        )
        self.further = [volume for volume in found if own.isdisjoint(image_files(volume))]

    def items(self, patients: Sequence[str]) -> list[dict[str, Any]]:
        """Return all cases of some patients, as items of a config's data list."""
        return [dict(self.cases[case]) for patient in patients for case in self.of[patient]]

    def labelled(self, count: int, seed: int) -> list[dict[str, Any]]:
        """Return one case of each labelled patient that a seed draws; 0: all cases of the pool.

        For the same seed, a larger number contains the patients of a smaller one.

        Raises:
            StudyError: when the pool has fewer patients.
        """
        if not 0 <= count <= len(self.pool):
            raise StudyError(f"labels must be from 0 (all) to {len(self.pool)}, the patients of the pool, got {count}")
        drawn = shuffled(self.pool, seed)
        if not count:
            return self.items(drawn)
        return [dict(self.cases[shuffled(self.of[patient], seed)[0]]) for patient in drawn[:count]]

    def unlabelled(self) -> dict[str, list[dict[str, Any]]]:
        """Return the images of the pool and further ones for pre-training. A tenth of the pool is for validation."""
        tenth = max(1, len(self.pool) // 10)
        numbers = {case: number for number, case in enumerate(sorted(self.cases))}
        sets = {"training": self.pool[tenth:], "validation": self.pool[:tenth]}
        own = {
            name: [{"image": item["image"], "volume": numbers[item["case_id"]]} for item in self.items(patients)]
            for name, patients in sets.items()
        }
        own["training"] += [{"image": image, "volume": len(numbers) + k} for k, image in enumerate(self.further)]
        return own | {"held_out": [{"image": item["image"]} for item in self.items([*self.test, *self.tuning])]}
