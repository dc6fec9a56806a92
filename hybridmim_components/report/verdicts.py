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

"""What a run shows, in numbers and sentences: whether pre-training learnt, and how two runs differ case by case."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from hybridmim_components.method.losses import LOSS_TERMS
from hybridmim_components.report.run_folders import Row

__all__ = [
    "HELD_OUT",
    "LEARNT_SHARE",
    "CaseScores",
    "Difference",
    "case_scores",
    "learning_sentence",
    "paired_difference",
    "start_and_end",
    "terms_of",
]

#: A term counts as learnt if it ends below this share of the value that guessing gives.
LEARNT_SHARE = 0.9
_FEWEST_CASES = 10
#: Figures of held-out volumes, by their column in validation.csv.
HELD_OUT = {
    "val_masked_error_share": "masked error, share of guessing",
    "val_number_within_one": "number of masked patches, at most one off",
    "val_location_accuracy": "location of masked patches, balanced",
}


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


def terms_of(rows: Sequence[Row]) -> list[str]:
    """Return the loss terms that a pre-training used and that can be compared with guessing."""
    return [term for term in LOSS_TERMS if rows and f"{term}_share" in rows[0]]


def start_and_end(rows: Sequence[Row], column: str) -> tuple[float, float]:
    """Return means over the first and the last tenth of the epochs, since single epochs are noisy.

    Example:
        >>> start_and_end([{"loss": "3"}, {"loss": "2"}, {"loss": "1"}], "loss")
        (3.0, 1.0)
    """
    values = [float(row[column]) for row in rows]
    span = max(1, len(values) // 10)
    return fmean(values[:span]), fmean(values[-span:])


def learning_sentence(rows: Sequence[Row]) -> str:
    """Say which terms of a pre-training ended below guessing, and which did not.

    The consistency term is left out: two heads that both guess agree with each other.

    Args:
        rows: rows of the pre-training's training.csv.
    """
    ends = {term: start_and_end(rows, f"{term}_share")[1] for term in terms_of(rows) if term != "consistency"}
    if not ends:
        return "Pre-training has not finished an epoch."
    groups = {
        "learnt": [f"{_words(term)} ({end:.2f} of guessing)" for term, end in ends.items() if end < LEARNT_SHARE],
        "did not learn": [f"{_words(term)} ({end:.2f})" for term, end in ends.items() if not end < LEARNT_SHARE],
    }
    return "Pre-training " + " and ".join(f"{verb} {', '.join(found)}" for verb, found in groups.items() if found) + "."


def case_scores(rows: Sequence[Row]) -> dict[str, CaseScores]:
    """Group the rows of evaluation_cases.csv by case, the lowest Dice first; cases without a Dice come last."""
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
    return dict(sorted(scores.items(), key=lambda item: math.inf if math.isnan(item[1].dice) else item[1].dice))


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


def _words(term: str) -> str:
    return term.replace("_", " ")


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return fmean(known) if known else math.nan
