# SPDX-License-Identifier: Apache-2.0
"""Dropout that is cheap to draw drops what it says, and goes back through the same mask."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from hybridmim_components.networks import ByteDropout, use_byte_dropout


def test_share_and_mean_are_those_of_the_probability() -> None:
    torch.manual_seed(0)
    for p, rounded in ((0.1, 26 / 256), (0.5, 0.5), (0.001, 1 / 256)):
        y = ByteDropout(p)(torch.ones(1001, 1001))
        # five standard errors
        assert abs((y == 0).double().mean() - rounded) < 5 * (rounded / 1e6) ** 0.5
        assert abs(y.double().mean() - 1) < 5e-3
        assert y.unique().numel() == 2


def test_no_byte_of_a_drawn_word_drops_more_than_another() -> None:
    torch.manual_seed(0)
    dropped = (ByteDropout(0.25)(torch.ones(100_000, 8)) == 0).double().mean(0)
    assert (dropped - 0.25).abs().max() < 5 * (0.25 * 0.75 / 100_000) ** 0.5


def test_gradient_passes_what_was_kept() -> None:
    x = torch.rand(3, 5, 7).add(1).requires_grad_()
    y = ByteDropout(0.3)(x)
    (y * 2).sum().backward()
    assert torch.equal(x.grad == 0, y == 0) and bool((y == 0).any())
    assert torch.allclose(x.grad[y != 0], 2 * (y / x)[y != 0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_types_and_strides_stay(dtype: torch.dtype) -> None:
    x = torch.rand(4, 6, 8, dtype=dtype).transpose(0, 2)
    y = ByteDropout(0.5)(x)
    assert y.dtype == dtype and y.shape == x.shape
    assert torch.equal(y[y != 0], 2 * x[y != 0])


def test_the_seed_settles_the_mask_and_each_draw_differs() -> None:
    x, drop = torch.ones(64, 64), ByteDropout(0.5)
    torch.manual_seed(3)
    first, second = drop(x), drop(x)
    torch.manual_seed(3)
    assert torch.equal(drop(x), first) and not torch.equal(first, second)


def test_images_with_metadata_may_be_changed_in_place_afterwards() -> None:
    """As fine-tuning gives them to a network, whose activations work in place."""
    x = MetaTensor(torch.rand(2, 3, 4)).requires_grad_()
    y = nn.LeakyReLU(0.1, inplace=True)(ByteDropout(0.5)(x * 2))
    y.sum().backward()
    assert type(y) is Tensor and bool((x.grad == 4).any())


def test_evaluation_and_extreme_probabilities_are_torch_s() -> None:
    x = torch.rand(100)
    assert ByteDropout(0.5).eval()(x) is x
    assert torch.equal(ByteDropout(0.0)(x), x) and not ByteDropout(1.0)(x).any()


def test_all_element_wise_dropout_of_a_network_is_exchanged_once() -> None:
    network = nn.Sequential(nn.Dropout(0.1), nn.Sequential(nn.Dropout3d(0.1), nn.Dropout(0.2)), nn.Dropout(0.0))
    assert use_byte_dropout(network) == 2 and use_byte_dropout(network) == 0
    assert [type(m) for m in network] == [ByteDropout, nn.Sequential, nn.Dropout]
    assert type(network[1][0]) is nn.Dropout3d and network[1][1].p == 0.2
    shared = nn.Dropout(0.1)
    twice = nn.Sequential(shared, nn.Sequential(shared))
    assert use_byte_dropout(twice) == 1 and twice[0] is twice[1][0] and type(twice[0]) is ByteDropout
    frozen = nn.Sequential(nn.Dropout(0.1)).eval()
    use_byte_dropout(frozen)
    assert not frozen[0].training
