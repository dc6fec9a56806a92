# SPDX-License-Identifier: Apache-2.0

"""What a masked voxel becomes, kind by kind."""

from __future__ import annotations

import pytest
import torch

from hybridmim_components.method import MASK_FILLS, MaskFill
from hybridmim_components.method.masking import MaskGrid, expand_mask, sample_mask

GRIDS = {3: MaskGrid(24, 8, 4), 2: MaskGrid((48, 48), (16, 16), (8, 8))}


def crops(dims: int, channels: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose mean and deviation differ by sample and channel, and their masked voxels."""
    generator = torch.Generator().manual_seed(0)
    grid = GRIDS[dims]
    scale = torch.tensor([[0.1, 2.0], [1.0, 0.5]]).view(2, 2, *[1] * dims)[:, :channels]
    image = torch.randn(2, channels, *grid.image_size, generator=generator) * scale + 3 * scale
    return image, expand_mask(sample_mask(grid, 2, generator=generator), grid)


@pytest.mark.parametrize("dims", GRIDS)
@pytest.mark.parametrize("kind", MASK_FILLS)
def test_visible_voxels_stay_and_masked_ones_are_not_looked_at(kind: str, dims: int) -> None:
    image, hidden = crops(dims)
    fill = MaskFill(kind, -2.0, 2, dims)
    torch.manual_seed(1)
    filled = fill(image, hidden)
    visible = ~hidden.expand_as(image)
    assert filled.shape == image.shape and torch.equal(filled[visible], image[visible])
    torch.manual_seed(1)
    assert torch.equal(filled, fill(torch.where(hidden, 99.0, image), hidden))
    assert not (filled == image)[~visible].any()


@pytest.mark.parametrize(("kind", "value"), [("constant", -2.0), ("token", -2.0), ("zero", 0.0)])
def test_masked_voxels_get_one_value(kind: str, value: float) -> None:
    image, hidden = crops(3)
    filled = MaskFill(kind, -2.0, 2)(image, hidden)
    assert (filled[hidden.expand_as(image)] == value).all()


@pytest.mark.parametrize("dims", GRIDS)
def test_noise_has_mean_and_deviation_of_what_is_visible_in_its_crop_and_channel(dims: int) -> None:
    image, hidden = crops(dims)
    torch.manual_seed(0)
    filled = MaskFill("noise", spatial_dims=dims)(image, hidden)
    for b in range(2):
        for c in range(2):
            noise, visible = filled[b, c][hidden[b, 0]], image[b, c][~hidden[b, 0]]
            # five standard errors of a mean and of a deviation
            error = 5 * float(visible.std()) / len(noise) ** 0.5
            assert abs(float(noise.mean() - visible.mean())) < error
            assert abs(float(noise.std() - visible.std())) < error
    assert not torch.equal(filled, MaskFill("noise", spatial_dims=dims)(image, hidden))


def test_noise_is_finite_where_all_is_masked_or_all_is_alike() -> None:
    image = torch.full((1, 1, 4, 4, 4), 0.25)
    hidden = torch.ones(1, 1, 4, 4, 4, dtype=torch.bool)
    assert (MaskFill("noise")(image, hidden) == 0).all()
    hidden[..., 0] = False
    assert torch.allclose(MaskFill("noise")(image, hidden), image)


def test_the_token_learns_from_masked_voxels_alone() -> None:
    image, hidden = crops(3)
    fill = MaskFill("token", -1.0, channels=2)
    assert dict(fill.named_parameters()).keys() == {"token"} and (fill.token == -1).all()
    weight = torch.rand(image.shape)
    (fill(image, hidden) * weight).sum().backward()
    expected = (weight * hidden).sum((0, 2, 3, 4))
    assert torch.allclose(fill.token.grad.flatten(), expected, rtol=1e-4)
    optimizer = torch.optim.SGD(fill.parameters(), lr=0.5)
    target = torch.tensor([0.5, -3.0]).view(1, 2, 1, 1, 1)
    for _ in range(60):
        optimizer.zero_grad()
        ((fill(image, hidden) - target) ** 2 * hidden).sum((2, 3, 4)).div(hidden.sum()).sum().backward()
        optimizer.step()
    assert torch.allclose(fill.token, target, atol=1e-3)


@pytest.mark.parametrize("kind", sorted(set(MASK_FILLS) - {"token"}))
def test_other_fills_learn_nothing(kind: str) -> None:
    assert not list(MaskFill(kind).parameters())


@pytest.mark.parametrize("kind", MASK_FILLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_type_of_the_images_stays(kind: str, dtype: torch.dtype) -> None:
    image, hidden = crops(3)
    filled = MaskFill(kind, channels=2)(image.to(dtype), hidden)
    assert filled.dtype == dtype and filled.isfinite().all()


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask_fill must be one of \('constant', .*\), got 'mean'"):
        MaskFill("mean")
