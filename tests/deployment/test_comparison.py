# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch

from hybridmim_components.deployment import compare


def test_comparison_finds_the_worst_voxel() -> None:
    expected = torch.zeros(1, 2, 2, 2, 2)
    expected[:, 1] = 0.5
    logits = expected.clone()
    logits[0, 1, 0, 0, 0] = -0.25
    exclusive, overlapping = compare(expected, logits, False), compare(expected - 0.3, logits - 0.3, True)
    assert exclusive.max_difference == 0.75 and exclusive.agreement == 7 / 8
    assert overlapping.max_difference == pytest.approx(0.75) and overlapping.agreement == 7 / 8
    assert compare(expected, expected + 1, False).agreement == 1
    assert compare(expected, expected + 1, True).agreement == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_infinitely_far(value: float) -> None:
    logits = torch.full((1, 2, 2, 2, 2), value)
    assert compare(logits, logits, False).max_difference == float("inf")


def test_comparison_refuses_another_shape() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 2, 2, 2, 2\), got \(1, 2, 2, 2, 1\)"):
        compare(torch.zeros(1, 2, 2, 2, 2), torch.zeros(1, 2, 2, 2, 1), False)
