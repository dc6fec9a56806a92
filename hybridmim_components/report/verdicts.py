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

    Example:
        >>> row = {"case": "a", "hd95_mm": "2.0", "label_voxels": "50", "figures": "unseen"}
        >>> rows = [{**row, "class": "liver", "dice": "0.9"}, {**row, "class": "tumour", "dice": "0.5"}]
        >>> score = case_scores(rows)["a"]
        >>> score.dice, score.hd95_mm
        (0.7, 2.0)
        >>> score.truth
        ('unseen', ('liver', '50'), ('tumour', '50'))
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

    Example:
        >>> first = {f"case_{n}": CaseScores([], 0.8 + n / 50, 2.0, "unseen") for n in range(10)}
        >>> second = {name: CaseScores([], 0.8, 2.0, "unseen") for name in first}
        >>> found = paired_difference(first, second)
        >>> print(f"{found.mean:.2f} ({found.low:.2f} to {found.high:.2f}) over {found.cases} cases")
        0.09 (0.05 to 0.13) over 10 cases
    """

    mean: float
    low: float
    high: float
    cases: int


def case_scores(rows: Sequence[Row]) -> dict[str, CaseScores]:
    """Group the rows of evaluation_cases.csv by case, the worst first.

    That is the lowest Dice. A case whose truth is empty has no Dice: it comes first if something was segmented in it,
    and else last.

    Example:
        >>> row = {"class": "spleen", "hd95_mm": "2.0", "label_voxels": "50", "pred_voxels": "48", "figures": "unseen"}
        >>> scores = case_scores([{**row, "case": "a", "dice": "0.9"}, {**row, "case": "b", "dice": "0.5"}])
        >>> {name: score.dice for name, score in scores.items()}
        {'b': 0.5, 'a': 0.9}
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

    Example:
        >>> first = {"a": CaseScores([], 0.75, 2.0, "unseen"), "b": CaseScores([], 0.5, 3.0, "unseen")}
        >>> second = {"a": CaseScores([], 0.5, 4.0, "unseen"), "b": CaseScores([], 0.5, 3.0, "training")}
        >>> paired_difference(first, second)  # case b does not count
        Difference(mean=0.25, low=nan, high=nan, cases=1)
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
