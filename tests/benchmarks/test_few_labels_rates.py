# SPDX-License-Identifier: Apache-2.0

"""Learning rates are chosen on the tuning patients, and doubtful choices are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from few_labels_cells import Cell
from few_labels_rates import RATES, TUNING_SEEDS, chosen_rates
from rows import add_rows


def test_learning_rates_are_those_of_the_tuning_patients(tmp_path: Path) -> None:
    rows = [
        {**Cell(arm, 2, seed, "tuning", rate, 400, 0).__dict__, "dice": dice}
        for arm, best in (("scratch", RATES[0]), ("hybridmim", RATES[-1]))
        for rate in RATES
        for seed, dice in zip(TUNING_SEEDS, (0.7, 0.5 + 0.1 * (rate == best), 0.6), strict=True)
    ]
    add_rows(tmp_path / "tuning.csv", rows)
    path = tmp_path / "tuning.csv"
    rates = chosen_rates(path, ["scratch", "hybridmim", "no_contrast", "scratch_longer"], 2, 400)
    assert rates["scratch"] == rates["scratch_longer"] == RATES[0]
    assert rates["hybridmim"] == rates["no_contrast"] == RATES[-1]
    with pytest.raises(SystemExit, match="tune scratch first: .* has no learning rate of it for 800 steps"):
        chosen_rates(path, ["scratch"], 2, 800)


def test_an_arm_that_was_tuned_keeps_its_own_rate_with_another_number_of_labels(tmp_path: Path) -> None:
    path, low, high = tmp_path / "tuning.csv", min(RATES), max(RATES)
    for arm, labels, best in (("masked_modelling", 2, high), ("hybridmim", 1, low), ("hybridmim", 2, low)):
        rows = [
            {**Cell(arm, labels, seed, "tuning", rate, 400, 0).__dict__, "dice": 0.5 + 0.1 * (rate == best)}
            for rate in (low, high)
            for seed in TUNING_SEEDS
        ]
        add_rows(path, rows)
    rates = chosen_rates(path, ["masked_modelling", "no_contrast"], 1, 400)
    assert rates == {"masked_modelling": high, "no_contrast": low}


def test_a_learning_rate_tuned_with_as_many_labels_comes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, low, high = tmp_path / "tuning.csv", min(RATES), max(RATES)
    for labels, best in ((2, low), (1, high)):
        rows = [
            {**Cell("hybridmim", labels, seed, "tuning", rate, 400, 0).__dict__, "dice": 0.5 + 0.1 * (rate == best)}
            for rate in (low, high)
            for seed in TUNING_SEEDS
        ]
        add_rows(path, rows)
    unfinished = {**Cell("hybridmim", 1, TUNING_SEEDS[0], "tuning", 0.1, 400, 0).__dict__, "dice": 0.9}
    add_rows(path, [unfinished])
    arms = ["hybridmim", "no_contrast"]
    assert chosen_rates(path, arms, 4, 400) == dict.fromkeys(arms, low)
    warnings = capsys.readouterr().err
    assert "the best rate of hybridmim with 2 labels and 400 steps is used with 4 labels: tune it" in warnings
    assert f"hybridmim with 2 labels and 400 steps is the least that was tried, {low}" in warnings
    assert chosen_rates(path, arms, 0, 400) == dict.fromkeys(arms, low), "2 is nearer to all than 1"
    assert "with 2 labels and 400 steps is used with all labels: tune it" in capsys.readouterr().err
    assert chosen_rates(path, arms, 1, 400) == dict.fromkeys(arms, high)
    warnings = capsys.readouterr().err
    assert f"hybridmim with 1 labels and 400 steps is the largest that was tried, {high}" in warnings
    assert "is used with" not in warnings
    larger = {**Cell("hybridmim", 1, 0, "tuning", 2 * high, 400, 0).__dict__, "dice": 0.4}
    add_rows(path, [{**larger, "seed": seed} for seed in TUNING_SEEDS])
    assert chosen_rates(path, arms, 1, 400) == dict.fromkeys(arms, high)
    assert not capsys.readouterr().err, "neither end of the list, and as many labels"
