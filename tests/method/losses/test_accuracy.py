# SPDX-License-Identifier: Apache-2.0

"""Accuracies of the number and the location, by hand."""

from __future__ import annotations

import pytest
import torch

from hybridmim_components.method.losses import location_accuracy, number_accuracy


def test_number_counts_the_most_likely_class() -> None:
    # of four sub-volumes of three patches 0, 1, 3 and 3 are masked
    mask = torch.tensor([[[0, 0, 0], [0, 1, 0], [1, 1, 1], [1, 1, 1]]], dtype=torch.bool)
    logits = torch.tensor([[[5.0, 1, 1, 1], [0, 0, 0.1, 0], [-1, -2, -3, -0.5], [9, 0, 0, 8]]])
    # it says 0 (right), 2 (one off), 3 (right), 0 (three off)
    assert number_accuracy(logits, mask).item() == pytest.approx(2 / 4)
    assert number_accuracy(logits, mask, within=1).item() == pytest.approx(3 / 4)
    assert number_accuracy(logits, mask, within=2).item() == pytest.approx(3 / 4)
    assert number_accuracy(logits, mask, within=3).item() == 1


def test_location_weighs_masked_and_visible_patches_alike() -> None:
    mask = torch.tensor([[[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]], dtype=torch.bool)
    logits = torch.tensor([[[2.0, -1, 3, -1, -1, -1], [-1, -1, -1, -1, -1, 0.5]]])
    # one of two masked ones is found, eight of ten visible ones
    assert location_accuracy(logits, mask).item() == pytest.approx((1 / 2 + 8 / 10) / 2)
    assert location_accuracy(torch.where(mask, 1.0, -1.0), mask).item() == 1
    assert location_accuracy(torch.where(mask, -1.0, 1.0), mask).item() == 0


@pytest.mark.parametrize("masked", [1, 3, 11])
@pytest.mark.parametrize("answer", [-2.0, 0.0, 2.0])
def test_a_constant_location_finds_half(masked: int, answer: float) -> None:
    mask = (torch.arange(12) < masked).view(1, 2, 6)
    assert location_accuracy(torch.full((1, 2, 6), answer), mask).item() == 0.5


def test_accuracies_have_no_gradient_and_take_half_precision() -> None:
    mask = torch.zeros(1, 2, 3, dtype=torch.bool)
    for dtype in (torch.float16, torch.bfloat16):
        assert number_accuracy(torch.zeros(1, 2, 4, dtype=dtype), mask).item() == 1
        assert location_accuracy(torch.full((1, 2, 3), -1, dtype=dtype), mask).item() == 0.5  # no patch is masked
