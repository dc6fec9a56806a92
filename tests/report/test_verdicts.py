# SPDX-License-Identifier: Apache-2.0

"""Scores of cases and differences of runs, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from hybridmim_components.report.verdicts import CaseScores, case_scores, paired_difference


def scores(**dice: float) -> dict[str, CaseScores]:
    return {name: CaseScores((), value, 1.0, "unseen") for name, value in dice.items()}


def test_a_case_has_the_means_of_the_classes_in_its_label_and_the_worst_comes_first() -> None:
    def row(case: str, dice: float, voxels: int, hd95: float = 2.0, predicted: int = 0) -> dict[str, str]:
        values = {"case": case, "dice": dice, "hd95_mm": hd95, "label_voxels": voxels, "figures": "unseen"}
        values["pred_voxels"] = predicted
        return {name: str(value) for name, value in values.items()}

    found = case_scores(
        [row("a", 0.9, 5), row("a", 1.0, 0, 0.0), row("b", 0.5, 5), row("b", 0.7, 5, 4.0), row("c", 1, 0)]
        + [row("false positive", 0, 0, 99.0, predicted=7)]
    )
    assert list(found) == ["false positive", "b", "a", "c"]
    assert (found["b"].dice, found["b"].hd95_mm) == pytest.approx((0.6, 3.0))
    assert (found["a"].dice, found["a"].hd95_mm) == (0.9, 2.0) and math.isnan(found["c"].dice)


def test_runs_are_compared_on_their_common_cases_with_an_interval_if_there_are_enough() -> None:
    first = scores(**{name: 0.8 + number / 100 for number, name in enumerate("abcdefghij")}, k=math.nan)
    second = scores(**dict.fromkeys("abcdefghij", 0.7), k=0.5, l=0.1)
    found = paired_difference(first, second)
    assert found and found.cases == 10 and found.mean == pytest.approx(0.145)
    # mean +- 1.96 standard errors of the mean is 0.127 to 0.163
    assert found.low == pytest.approx(0.127, abs=0.003) and found.high == pytest.approx(0.163, abs=0.003)
    few = paired_difference(first, scores(**dict.fromkeys("abcdefghi", 0.7)))
    assert few and few.cases == 9 and math.isnan(few.low)
    assert paired_difference(first, scores(x=0.5)) is None
