# SPDX-License-Identifier: Apache-2.0

"""The learning rate of each arm of few_labels.py, chosen on the tuning patients."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from few_labels_arms import read_arms
from rows import read_rows

__all__ = ["RATES", "TUNING_SEEDS", "best_rates", "chosen_rates"]

RATES = (0.003, 0.006, 0.01, 0.02)
TUNING_SEEDS = (100, 101, 102)


def chosen_rates(path: Path, arms: Sequence[str], labels: int, steps: int) -> dict[str, float]:
    """Return the learning rate of each arm that has the best mean Dice on the tuning patients after these steps.

    The rate is that tuned with the same number of labelled patients, or else with the number of the nearest ratio to
    it. An arm that was not tuned with any number takes the rate of HybridMIM, or that of scratch if it has no
    pre-training. A rate that was tuned with another number, or that is the largest or the least of its list, gives a
    warning: either has looked like a gain.
    """
    most = 1_000_000  # stands for all patients, whose number is written as 0
    numbers = sorted({int(row["labels"]) for row in read_rows(path)})
    numbers.sort(key=lambda number: abs(math.log((number or most) / (labels or most))))
    tuned = {number: best_rates(path, number, steps) for number in numbers}
    chosen = {}
    for arm in arms:
        model = "hybridmim" if read_arms()[arm].pretrained_by else "scratch"
        found = [(number, *best[name]) for name in (arm, model) for number, best in tuned.items() if name in best]
        if not found:
            raise SystemExit(f"few_labels: tune {model} first: {path} has no learning rate of it for {steps} steps")
        number, chosen[arm], end = found[0]
        what = f"few_labels: the best rate of {arm} with {number or 'all'} labels and {steps} steps"
        if number != labels:
            print(f"{what} is used with {labels or 'all'} labels: tune it with as many", file=sys.stderr)
        if end:
            print(f"{what} is the {end} that was tried, {chosen[arm]}: try others beyond it", file=sys.stderr)
    return chosen


def best_rates(path: Path, labels: int, steps: int) -> dict[str, tuple[float, str]]:
    """Return the best learning rate of each arm, and ``largest`` or ``least`` if it is an end of those tried.

    Only rates that all tuning seeds have count. Of equally good ones, the first in the file is taken.
    """
    found: dict[tuple[str, float], list[float]] = {}
    for row in read_rows(path):
        if int(row["steps"]) == steps and int(row["labels"]) == labels:
            found.setdefault((row["arm"], float(row["learning_rate"])), []).append(float(row["dice"]))
    complete = {key: statistics.mean(values) for key, values in found.items() if len(values) == len(TUNING_SEEDS)}
    best: dict[str, tuple[float, str]] = {}
    for arm, rate in sorted(complete, key=lambda key: complete[key], reverse=True):
        tried = [other for name, other in complete if name == arm]
        best.setdefault(arm, (rate, "largest" if rate == max(tried) else "least" if rate == min(tried) else ""))
    return best
