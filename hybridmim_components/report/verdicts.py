# SPDX-License-Identifier: Apache-2.0

"""What an evaluation shows in numbers: the scores of each case, and how two runs differ case by case."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from hybridmim_components.system.files import Row

__all__ = ["CaseScores", "Difference", "case_scores", "paired_difference"]

_FEWEST_CASES = 10


@dataclass(frozen=True)
class CaseScores:
    """Scores of one evaluated case.

    Attributes:
        rows: rows of evaluation_cases.csv, one per class.
        dice: mean Dice of the classes that the label contains; NaN if it contains none.
        hd95_mm: mean HD95 of the same classes, in mm.
        group: what the weights have seen of the case, see :data:`.case_groups.GROUPS`.
    """

    rows: Sequence[Row]
    dice: float
    hd95_mm: float
    group: str

    @property
    def truth(self) -> tuple[Any, ...]:
        """What two runs must have in common for a comparison: classes, sizes of the labels, and group."""
        return (self.group, *((row["class"], row["label_voxels"]) for row in self.rows))


@dataclass(frozen=True)
class Difference:
    """Mean paired difference of Dice between two runs, with a 95 % bootstrap interval over the cases.

    Attributes:
        mean: first run less second run.
        low: lower end of the interval; NaN if there are fewer than 10 cases, for which it would be too narrow.
        high: upper end.
        cases: number of cases that were compared.
    """

    mean: float
    low: float
    high: float
    cases: int


def case_scores(rows: Sequence[Row]) -> dict[str, CaseScores]:
    """Group the rows of evaluation_cases.csv by case, the worst first.

    That is the lowest Dice. A case whose truth is empty has no Dice: it comes first if something was segmented in it,
    and else last.
    """
    by_case: dict[str, list[Row]] = {}
    for row in rows:
        by_case.setdefault(row["case"], []).append(row)
    scores = {
        name: CaseScores(
            found,
            _mean([float(row["dice"]) for row in found if int(row["label_voxels"])]),
            _mean([float(row["hd95_mm"]) for row in found if int(row["label_voxels"])]),
            found[0]["figures"],
        )
        for name, found in by_case.items()
    }
    return dict(sorted(scores.items(), key=lambda item: _rank(item[1])))


def _rank(case: CaseScores) -> float:
    if not math.isnan(case.dice):
        return case.dice
    return -1 if any(int(row["pred_voxels"]) for row in case.rows) else math.inf


def paired_difference(first: Mapping[str, CaseScores], second: Mapping[str, CaseScores]) -> Difference | None:
    """Compare two runs on the cases that both evaluated; None if there is no such case.

    A case counts if both runs scored it against the same classes of the same sizes, and if what the weights have seen
    of it is the same.
    """
    common = [(first[name], second[name]) for name in first if name in second]
    differences = [one.dice - other.dice for one, other in common if one.truth == other.truth and one.dice == one.dice]
    if not differences:
        return None
    low = high = math.nan
    if len(differences) >= _FEWEST_CASES:
        generator = np.random.default_rng(0)
        found = bootstrap((differences,), np.mean, method="percentile", random_state=generator).confidence_interval
        low, high = float(found.low), float(found.high)
    return Difference(fmean(differences), low, high, len(differences))


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return fmean(known) if known else math.nan
