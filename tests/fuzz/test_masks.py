# SPDX-License-Identifier: Apache-2.0

"""Any grid, mask and region, not only the paper's."""

from __future__ import annotations

from math import prod

import torch
from hypothesis import given
from hypothesis import strategies as st

from hybridmim_components.method.masking import MASK_STRATEGIES, MaskGrid, expand_mask, num_masked_patches, sample_mask
from hybridmim_components.method.partial_region import choose_region, subvolume_content

SEEDS = st.integers(0, 2**32)
RATIOS = st.floats(0.01, 0.99)


@st.composite
def grids(draw: st.DrawFn, min_axes: int = 1) -> MaskGrid:
    """Sizes that divide: patch, patches of a sub-volume and sub-volumes of each axis."""
    axes = draw(st.integers(min_axes, 3))
    patch, patches, subvolumes = (draw(st.tuples(*[st.integers(1, 3)] * axes)) for _ in range(3))
    subvolume = tuple(p * n for p, n in zip(patch, patches, strict=True))
    return MaskGrid(tuple(s * n for s, n in zip(subvolume, subvolumes, strict=True)), subvolume, patch)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(grids(), st.integers(1, 3), RATIOS, st.sampled_from(MASK_STRATEGIES), SEEDS)
def test_every_sample_has_the_same_number_of_masked_patches(
    grid: MaskGrid, batch_size: int, ratio: float, strategy: str, seed: int
) -> None:
    mask = sample_mask(grid, batch_size, ratio, strategy, generator(seed))
    assert mask.shape == (batch_size, grid.num_subvolumes, grid.num_patches) and mask.dtype == torch.bool
    assert mask.flatten(1).sum(1).tolist() == [num_masked_patches(grid, ratio)] * batch_size
    assert torch.equal(mask, sample_mask(grid, batch_size, ratio, strategy, generator(seed)))


@given(grids(), RATIOS, SEEDS)
def test_voxels_are_masked_as_their_patch_is(grid: MaskGrid, ratio: float, seed: int) -> None:
    mask = sample_mask(grid, 1, ratio, generator=generator(seed))
    voxels = expand_mask(mask, grid)
    assert voxels.shape == (1, 1, *grid.image_size)
    assert int(voxels.sum()) == int(mask.sum()) * prod(grid.patch_size)
    for index in {
        (0,) * len(grid.image_size),
        tuple(n - 1 for n in grid.image_size),
        tuple(n // 2 for n in grid.image_size),
    }:
        subvolume = patch = 0
        for axis, at in enumerate(index):
            size = grid.subvolume_size[axis]
            subvolume = subvolume * grid.subvolume_grid[axis] + at // size
            patch = patch * grid.patch_grid[axis] + at % size // grid.patch_size[axis]
        assert voxels[(0, 0, *index)] == mask[0, subvolume, patch]


SIZES = st.one_of(st.integers(-2, 100), st.lists(st.integers(-2, 100), max_size=4), st.just(2**70))


@given(SIZES, SIZES, SIZES)
def test_sizes_make_a_grid_or_a_clear_error(image: object, subvolume: object, patch: object) -> None:
    try:
        grid = MaskGrid(image, subvolume, patch)
    except ValueError as error:
        assert "must" in str(error) and "got" in str(error)
        return
    for axis, size in enumerate(grid.image_size):
        assert size == grid.subvolume_grid[axis] * grid.patch_grid[axis] * grid.patch_size[axis]


@given(grids(min_axes=2), st.sampled_from(("random", "corner", "content", "full")), SEEDS)
def test_a_region_is_made_of_whole_subvolumes_inside_the_crop(grid: MaskGrid, position: str, seed: int) -> None:
    image = torch.rand(1, 2, *grid.image_size, generator=generator(seed)).round()
    content = subvolume_content(image, grid)
    assert content.shape == grid.subvolume_grid and 0 <= float(content.min()) <= float(content.max()) <= 1
    region = choose_region(grid, position, generator(seed), content)
    part = image[(slice(None), slice(None), *region.box)]
    assert torch.equal(region.crop(image), part)
    for axis, n in enumerate(grid.subvolume_grid):
        wanted = n if position == "full" else (2 * n + 2) // 3
        assert part.shape[2 + axis] == wanted * grid.subvolume_size[axis]
