# SPDX-License-Identifier: Apache-2.0

"""Slopes of made-up points."""

from __future__ import annotations

import pytest
from growth import Row, fitted, power_of, table


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 1.7])
def test_a_slope_is_the_power_over_the_upper_half(power: float) -> None:
    x = [1, 2, 4, 8, 16]
    assert power_of(x, [100, 100, *(3 * v**power for v in x[2:])]) == pytest.approx(power, abs=1e-9)


def test_each_series_and_measure_has_a_slope_of_its_own() -> None:
    rows = [Row("a", str(x), x, "time", 2.0 * x) for x in (8, 2, 4)]
    rows += [Row("a", str(x), x, "memory", 100.0) for x in (2, 4, 8)]
    found = fitted(rows)
    assert [row.x for row in found] == [2, 4, 8] * 2 and found[0].power is None
    assert found[2].power == pytest.approx(1) and found[-1].power == pytest.approx(0)
    assert "| a | 4 to 16 CPU s, from 2 to 8 | time grows with the batch to the power 1.00 |" in table(
        found, "the batch"
    )
