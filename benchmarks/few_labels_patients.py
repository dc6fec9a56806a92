# SPDX-License-Identifier: Apache-2.0

"""The patients of few_labels.py in three sets: test, tuning, and the pool for pre-training and for labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybridmim_components.data import find_volumes, read_cases
from hybridmim_components.data.datasets import dataset_of
from hybridmim_components.data.splits import shuffled

__all__ = ["TEST", "TUNING", "Patients", "StudyError"]

SPLIT_SEED, TEST, TUNING, LEAST_POOL = 2026, 60, 24, 4


class StudyError(ValueError):
    """Error that the user of the study can act on."""


class Patients:
    """Three disjoint sets of patients: test, tuning, and the pool.

    Pre-training sees the images of the pool, and the labelled patients are drawn from it. Both sides of a patient's
    head are in the same set. Pre-training can see further volumes, which have no labels.

    Args:
        dataset: data set, such as ``msd_hippocampus``.
        dataset_dir: its folder.
        test: number of test patients.
        tuning: number of tuning patients.
        unlabelled_dirs: folders of further volumes for pre-training, see :func:`.find_volumes`.

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
    ) -> None:
        self.cases = {case["case_id"]: case for case in read_cases(dataset, dataset_dir)}
        self.of: dict[str, list[str]] = {}
        for case in sorted(self.cases):
            self.of.setdefault(dataset_of(dataset).subject_of(case), []).append(case)
        order = shuffled(list(self.of), SPLIT_SEED)
        self.test, self.tuning, self.pool = order[:test], order[test : test + tuning], order[test + tuning :]
        if len(self.pool) < LEAST_POOL:
            what = f"{test} test patients, {tuning} tuning patients and at least {LEAST_POOL} others"
            raise StudyError(f"the study needs {what} with labels in {dataset_dir}, got {len(order)} in all")
        modalities = dataset_of(dataset).modalities or None
        self.further = find_volumes(unlabelled_dirs, modalities) if unlabelled_dirs else []

    def items(self, patients: Sequence[str]) -> list[dict[str, Any]]:
        """Return all cases of some patients, as items of a config's data list."""
        return [dict(self.cases[case]) for patient in patients for case in self.of[patient]]

    def labelled(self, count: int, seed: int) -> list[dict[str, Any]]:
        """Return the cases of labelled patients that a seed draws, one side of each head; 0: all cases of the pool.

        For the same seed, a larger number contains the patients of a smaller one.

        Raises:
            StudyError: when the pool has fewer patients.
        """
        if count > len(self.pool):
            raise StudyError(f"labels must be at most {len(self.pool)}, the patients of the pool, got {count}")
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
