# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmim_components.method.masking import MASK_STRATEGIES, MaskGrid, expand_mask, num_masked_patches, sample_mask

GRIDS = {
    "paper": MaskGrid((96, 96, 96), (32, 32, 32), (16, 16, 16)),
    "anisotropic": MaskGrid((12, 24, 8), (6, 8, 4), (3, 2, 4)),
    "2D": MaskGrid((12, 8), (6, 4), (2, 4)),
    "one sub-volume": MaskGrid((8, 8, 8), (8, 8, 8), (4, 4, 4)),
    "one patch": MaskGrid((8, 8, 8), (4, 4, 4), (4, 4, 4)),
}
grids = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
strategies = pytest.mark.parametrize("strategy", MASK_STRATEGIES)


def paint_slowly(mask: torch.Tensor, grid: MaskGrid) -> torch.Tensor:
    """Voxel by voxel: in which sub-volume and patch does it lie?"""
    image = torch.zeros((len(mask), 1, *grid.image_size), dtype=torch.bool)
    for voxel in itertools.product(*map(range, grid.image_size)):
        s = p = 0
        for v, sub, patch, ns, np_ in zip(
            voxel, grid.subvolume_size, grid.patch_size, grid.subvolume_grid, grid.patch_grid, strict=True
        ):
            s = s * ns + v // sub
            p = p * np_ + v % sub // patch
        image[(slice(None), 0, *voxel)] = mask[:, s, p]
    return image


def test_paper_grid_has_27_subvolumes_of_8_patches() -> None:
    assert (GRIDS["paper"].num_subvolumes, GRIDS["paper"].num_patches) == (27, 8)
    assert num_masked_patches(GRIDS["paper"], 0.4) == 86


@pytest.mark.parametrize("name", ["anisotropic", "2D", "one sub-volume", "one patch"])
def test_expand_mask_agrees_with_a_voxel_loop(name: str) -> None:
    grid = GRIDS[name]
    mask = sample_mask(grid, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(expand_mask(mask, grid), paint_slowly(mask, grid))


@grids
def test_every_patch_lies_in_its_own_box(grid: MaskGrid) -> None:
    count = grid.num_subvolumes * grid.num_patches
    one_hot = torch.eye(count, dtype=torch.bool).view(count, grid.num_subvolumes, grid.num_patches)
    painted = expand_mask(one_hot, grid)
    voxels = torch.tensor(grid.patch_size).prod()
    assert (painted.flatten(1).sum(1) == voxels).all()
    assert (painted.sum(0) == 1).all()


@grids
@strategies
@pytest.mark.parametrize("ratio", [0.05, 0.4, 0.75, 0.99])
def test_each_sample_masks_exactly_the_rounded_share(grid: MaskGrid, strategy: str, ratio: float) -> None:
    mask = sample_mask(grid, 16, ratio, strategy, torch.Generator().manual_seed(1))
    assert mask.dtype == torch.bool and mask.shape == (16, grid.num_subvolumes, grid.num_patches)
    assert set(mask.sum((1, 2)).tolist()) == {round(ratio * grid.num_subvolumes * grid.num_patches)}


@settings(max_examples=60, deadline=None)
@given(
    subvolumes=st.lists(st.integers(1, 3), min_size=2, max_size=3),
    patches=st.integers(1, 3),
    ratio=st.floats(0.01, 0.99),
    strategy=st.sampled_from(MASK_STRATEGIES),
    seed=st.integers(0, 2**32),
)
def test_any_grid_gives_an_exact_mask(subvolumes: list, patches: int, ratio: float, strategy: str, seed: int) -> None:
    size = 2 * patches
    grid = MaskGrid([n * size for n in subvolumes], [size] * len(subvolumes), [2] * len(subvolumes))
    mask = sample_mask(grid, 2, ratio, strategy, torch.Generator().manual_seed(seed))
    expected = round(ratio * grid.num_subvolumes * grid.num_patches)
    assert mask.sum((1, 2)).tolist() == [expected, expected]
    assert expand_mask(mask, grid).float().mean().item() == pytest.approx(
        expected / (grid.num_subvolumes * grid.num_patches)
    )


def test_hierarchical_masks_reach_every_count_in_every_subvolume() -> None:
    grid = GRIDS["paper"]
    counts = sample_mask(grid, 4000, generator=torch.Generator().manual_seed(0)).sum(-1)
    for subvolume in range(grid.num_subvolumes):
        assert set(counts[:, subvolume].tolist()) == set(range(grid.num_patches + 1))


def test_hierarchical_masks_choose_subvolumes_and_uniform_ones_do_not() -> None:
    grid = GRIDS["paper"]
    untouched = {
        strategy: (sample_mask(grid, 500, 0.4, strategy, torch.Generator().manual_seed(0)).sum(-1) == 0).float().mean()
        for strategy in MASK_STRATEGIES
    }
    # uniform: a sub-volume escapes with about 0.6 ** 8 = 1.7 %
    assert untouched["uniform"] < 0.03 < 0.2 < untouched["hierarchical"]


def test_hierarchical_masks_treat_all_subvolumes_and_patches_alike() -> None:
    mask = sample_mask(GRIDS["paper"], 4000, generator=torch.Generator().manual_seed(0)).float()
    assert (mask.mean((0, 2)) - 86 / 216).abs().max() < 0.03
    assert (mask.mean((0, 1)) - 86 / 216).abs().max() < 0.01


@strategies
def test_the_generator_alone_decides_the_mask(strategy: str) -> None:
    def draw(seed: int) -> torch.Tensor:
        return sample_mask(GRIDS["paper"], 4, 0.4, strategy, torch.Generator().manual_seed(seed))

    torch.manual_seed(0)
    first = draw(7)
    torch.manual_seed(1)
    assert torch.equal(first, draw(7))
    assert not torch.equal(first, draw(8))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (((96, 96, 96), (32, 32, 30), (16, 16, 15)), "subvolume_size must divide image_size"),
        (((96, 96, 96), (32, 32, 32), (16, 12, 16)), "patch_size must divide subvolume_size"),
        (((96, 96), (32, 32, 32), (16, 16)), "subvolume_size must hold 2 positive integers"),
        (((96, 96, 0), (32, 32, 32), (16, 16, 16)), "image_size must hold 3 positive integers"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(sizes: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskGrid(*sizes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_ratio": 1.5}, r"mask_ratio must be in \(0, 1\), got 1.5"),
        ({"mask_ratio": 0.0}, r"mask_ratio must be in \(0, 1\), got 0.0"),
        ({"strategy": "blocks"}, "mask_strategy must be one of .*, got 'blocks'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_mask(GRIDS["paper"], **{"batch_size": 1, **settings})


def test_a_mask_of_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask must have the shape \(B, 27, 8\), got \(1, 8, 27\)"):
        expand_mask(torch.zeros(1, 8, 27, dtype=torch.bool), GRIDS["paper"])
