# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from itertools import product

import pytest
import torch

from hybridmim_components.method.masking import MaskGrid
from hybridmim_components.method.partial_region import (
    REGIONS,
    Region,
    choose_region,
    full_region,
    split_subvolumes,
    subvolume_content,
)

GRID = MaskGrid((12, 18, 12), (4, 6, 4), (2, 3, 2))


def test_corner_is_the_released_box() -> None:
    region = choose_region(MaskGrid(96, 32, 16), "corner")
    assert region.box == (slice(32, 96),) * 3


@pytest.mark.parametrize(("subvolumes", "span"), [(1, 1), (2, 2), (3, 2), (4, 3), (6, 4)])
def test_span_is_two_thirds_rounded_up(subvolumes: int, span: int) -> None:
    assert choose_region(MaskGrid(4 * subvolumes, 4, 2), "random").size == (span,) * 3


def test_random_reaches_every_position_and_follows_its_generator() -> None:
    generator = torch.Generator().manual_seed(0)
    starts = [choose_region(GRID, "random", generator).start for _ in range(200)]
    assert len(set(starts)) == 8
    again = torch.Generator().manual_seed(0)
    assert starts == [choose_region(GRID, "random", again).start for _ in range(200)]


@pytest.mark.parametrize("position", REGIONS)
def test_features_of_any_resolution_are_cut_at_the_same_place(position: str) -> None:
    region = choose_region(GRID, position, content=torch.rand(3, 3, 3))
    fine = torch.arange(12 * 18 * 12).view(1, 1, 12, 18, 12)
    coarse = fine[:, :, ::2, ::2, ::2]
    assert torch.equal(region.crop(fine)[:, :, ::2, ::2, ::2], region.crop(coarse))
    assert torch.equal(region.crop(fine), fine[(slice(None), slice(None), *region.box)])
    assert region.crop(fine).data_ptr() >= fine.data_ptr() and region.crop(fine)._base is not None


def test_full_is_the_whole_crop() -> None:
    image = torch.rand(2, 1, 12, 18, 12)
    assert torch.equal(full_region(GRID).crop(image), image)


def test_content_finds_the_foreground() -> None:
    image = torch.zeros(2, 1, 12, 18, 12)
    image[:, :, 1:3, 7:17, 5:11] = 1
    content = subvolume_content(image, GRID)
    expected = torch.stack(
        [
            image[:, :, 4 * i : 4 * i + 4, 6 * j : 6 * j + 6, 4 * k : 4 * k + 4].mean()
            for i in range(3)
            for j in range(3)
            for k in range(3)
        ]
    ).view(3, 3, 3)
    assert torch.allclose(content, expected)
    assert choose_region(GRID, "content", content=content).start == (0, 1, 1)


@pytest.mark.parametrize(
    ("grid", "shape"),
    [(GRID, (6, 9, 6)), (GRID, (3, 3, 3)), (MaskGrid((12, 8), (6, 4), (2, 4)), (4, 4))],
    ids=["voxels of a sub-volume differ by axis", "one voxel each", "2D"],
)
def test_split_subvolumes_agrees_with_a_loop(grid: MaskGrid, shape: tuple[int, ...]) -> None:
    channels = 2
    feature = torch.rand(2, channels, *shape)
    sides = [n // total for n, total in zip(shape, grid.subvolume_grid, strict=True)]
    found = split_subvolumes(feature, grid)
    for b in range(2):
        for s, place in enumerate(product(*map(range, grid.subvolume_grid))):
            expected = [
                feature[(b, c, *(i * side + v for i, side, v in zip(place, sides, voxel, strict=True)))].item()
                for c in range(channels)
                for voxel in product(*map(range, sides))
            ]
            assert found[b, s].tolist() == expected


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="region must be one of .*, got 'centre'"):
        choose_region(GRID, "centre")
    with pytest.raises(ValueError, match="needs the content"):
        choose_region(GRID, "content")
    with pytest.raises(ValueError, match="region must lie inside"):
        Region(GRID, (2, 0, 0), (2, 2, 2))
    with pytest.raises(ValueError, match="must divide into"):
        full_region(GRID).crop(torch.rand(1, 1, 4, 6, 4))
