# SPDX-License-Identifier: Apache-2.0

"""Losses of any shape and magnitude: finite, and blind to what they must not see."""

from __future__ import annotations

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from hybridmim_components.method.losses.contrast import contrast_loss
from hybridmim_components.method.losses.perception import consistency_loss, location_loss, number_loss
from hybridmim_components.method.losses.reconstruction import partial_region_loss

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 6))  # B, S, P
SCALES = st.sampled_from((1e-6, 1.0, 30.0, 1e4))
SEEDS = st.integers(0, 2**32)


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_finite_with_gradient(loss: torch.Tensor, *inputs: torch.Tensor) -> None:
    assert loss.ndim == 0 and bool(loss.isfinite()) and float(loss) >= -1e-6
    loss.backward()
    assert all(bool(i.grad is not None and i.grad.isfinite().all()) for i in inputs)


@given(SHAPES, SCALES, SEEDS)
def test_perception_is_finite_for_any_logits(shape: tuple[int, int, int], scale: float, seed: int) -> None:
    batch, subvolumes, patches = shape
    random = draws(seed)
    number = (torch.randn(batch, subvolumes, patches + 1, generator=random) * scale).requires_grad_()
    location = (torch.randn(shape, generator=random) * scale).requires_grad_()
    mask = torch.rand(shape, generator=random) < 0.5
    terms = number_loss(number, mask), location_loss(location, mask), consistency_loss(number, location)
    assert_finite_with_gradient(torch.stack(terms).sum(), number, location)
    log_share = number.detach().double().log_softmax(-1).gather(-1, mask.sum(-1, keepdim=True))
    assert torch.allclose(terms[0].double(), -log_share.mean(), rtol=1e-4, atol=1e-6)


@given(st.integers(1, 3), st.integers(1, 2), st.integers(1, 4), SCALES, SEEDS)
def test_only_masked_voxels_count_in_the_reconstruction(b: int, c: int, side: int, scale: float, seed: int) -> None:
    random = draws(seed)
    target = torch.randn(b, c, side, side, side, generator=random) * scale
    mask = torch.rand(b, 1, side, side, side, generator=random) < 0.5
    prediction = (torch.randn(target.shape, generator=random) * scale).requires_grad_()
    loss = partial_region_loss(prediction, target, mask)
    assert torch.equal(loss, partial_region_loss(torch.where(mask, prediction, prediction + 7), target, mask))
    assert float(partial_region_loss(target, target, mask)) == 0
    assert_finite_with_gradient(loss, prediction)
    assert not bool((prediction.grad[~mask.expand_as(target)]).any())


@given(st.integers(2, 5), st.integers(1, 8), SCALES, st.floats(0.02, 10), SEEDS)
def test_the_contrast_is_symmetric_and_blind_to_length(
    size: int, features: int, scale: float, temperature: float, seed: int
) -> None:
    random = draws(seed)
    one, other = (torch.randn(size, features, generator=random) * scale for _ in range(2))
    assume(float(torch.minimum(one.norm(dim=1), other.norm(dim=1)).min()) > 1e-9)
    loss = contrast_loss(one.requires_grad_(), other.requires_grad_(), temperature)
    assert torch.allclose(loss, contrast_loss(other, one, temperature), rtol=1e-4, atol=1e-5)
    assert torch.allclose(loss, contrast_loss(one * 3, other * 0.5, temperature), rtol=1e-3, atol=1e-3)
    order = torch.randperm(size, generator=random)
    assert torch.allclose(loss, contrast_loss(one[order], other[order], temperature), rtol=1e-4, atol=1e-5)
    assert_finite_with_gradient(loss, one, other)
    # without negatives nothing is left to tell apart
    alone = contrast_loss(one, other, temperature, torch.zeros(size, dtype=torch.long))
    assert abs(float(alone)) < 1e-6
