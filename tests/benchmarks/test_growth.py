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

"""Slopes and plots of made-up points."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from growth import Point, slope, write


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 1.7])
def test_a_slope_is_the_power_over_the_upper_half(power: float) -> None:
    values = [1, 2, 4, 8, 16]
    costs = [100, 100, *(3 * v**power for v in values[2:])]
    assert slope(values, costs) == pytest.approx(power, abs=1e-9)


def test_points_and_slopes_are_written(tmp_path: Path) -> None:
    points = [Point("a", v, 2.0 * v, 100.0) for v in (2, 4, 8)]
    write("batch", "A step", "crops", points, tmp_path)
    with (tmp_path / "growth_batch.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["measure"], row["slope"]) for row in rows} == {("time", "1.00"), ("memory", "0.00")}
    assert len(rows) == 6 and (tmp_path / "growth_batch.png").stat().st_size > 1000
