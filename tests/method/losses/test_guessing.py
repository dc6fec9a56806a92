# SPDX-License-Identifier: Apache-2.0

"""What guessing gives: closed forms, and the real losses of constant answers."""

from __future__ import annotations

from math import comb, log

import pytest
import torch

from hybridmim_components.method.losses import (
    consistency_loss,
    contrast_loss,
    guessing,
    location_accuracy,
    location_loss,
    masked_squared_error,
    number_accuracy,
    number_loss,
    visible_mean_error,
)
from hybridmim_components.method.masking import MaskGrid, expand_mask, num_masked_patches, sample_mask
from hybridmim_components.method.partial_region import choose_region, full_region

PAPER = MaskGrid(96, 32, 16)
FLAT = MaskGrid((64, 64), (32, 32), (8, 8))


@pytest.mark.parametrize("ratio", [0.15, 0.4, 0.75])
@pytest.mark.parametrize("grid", [PAPER, FLAT], ids=["27 x 8", "2D, 4 x 16"])
def test_uniform_masks_agree_with_the_hypergeometric_distribution(grid: MaskGrid, ratio: float) -> None:
    patches, subvolumes = grid.num_patches, grid.num_subvolumes
    masked, others = num_masked_patches(grid, ratio), (subvolumes - 1) * patches
    ways = [comb(patches, k) * comb(others, masked - k) if k <= masked else 0 for k in range(patches + 1)]
    share = [way / sum(ways) for way in ways]
    mean = sum(k * p for k, p in enumerate(share))
    found = guessing(grid, ratio, "uniform", 2)
    assert found["number"] == pytest.approx(-sum(p * log(p) for p in share if p), abs=0.005)
    assert found["consistency"] == pytest.approx(sum((k - mean) ** 2 * p for k, p in enumerate(share)), rel=0.01)
    assert found["number_accuracy"] == pytest.approx(max(share), abs=0.005)
    around = [sum(share[max(0, k - 1) : k + 2]) for k in range(patches + 1)]
    assert found["number_within_one"] == pytest.approx(max(around), abs=0.005)
    rate = masked / (patches * subvolumes)
    assert found["location"] == pytest.approx(-rate * log(rate) - (1 - rate) * log(1 - rate), rel=1e-6)
    assert found["location_accuracy"] == 0.5


def test_masks_of_the_paper_leave_less_to_know_than_the_number_of_classes_says() -> None:
    found = guessing(PAPER, 0.4, "hierarchical", 4)
    # 2.019 by 400,000 masks
    assert found["number"] == pytest.approx(2.019, abs=0.01) and found["number"] < log(9) - 0.1
    assert found["location"] == pytest.approx(0.672, abs=0.01) and found["location"] < log(2) - 0.01


@pytest.mark.parametrize(
    ("batch_size", "crops_per_volume", "same_volume_negatives", "candidates"),
    [(2, 1, False, 3), (4, 2, False, 5), (4, 2, True, 7), (16, 2, False, 29), (2, 2, False, 1)],
)
def test_contrast_is_the_logarithm_of_the_candidates(
    batch_size: int, crops_per_volume: int, same_volume_negatives: bool, candidates: int
) -> None:
    guess = guessing(FLAT, 0.4, "uniform", batch_size, crops_per_volume, same_volume_negatives)["contrast"]
    assert guess == pytest.approx(log(candidates))
    # views that are all alike
    views = torch.ones(batch_size, 8)
    volume = None if same_volume_negatives else torch.arange(batch_size) // crops_per_volume
    assert contrast_loss(views, views, volume=volume).item() == pytest.approx(guess, abs=1e-5)


@pytest.mark.parametrize("strategy", ["hierarchical", "uniform"])
def test_the_best_constant_answers_give_the_guess_in_the_real_losses(strategy: str) -> None:
    guess = guessing(PAPER, 0.4, strategy, 2)
    mask = sample_mask(PAPER, 4000, 0.4, strategy, torch.Generator().manual_seed(5))
    count = mask.sum(-1)
    prior = torch.bincount(count.flatten(), minlength=9) / count.numel()
    number = prior.clamp(min=1e-9).log().expand(*count.shape, 9)
    # entropies of hierarchical masks scatter more, since the sub-volumes of one mask are alike
    assert number_loss(number, mask).item() == pytest.approx(guess["number"], abs=0.02)
    rate = mask.float().mean()
    location = torch.logit(rate).expand(mask.shape)
    assert location_loss(location, mask).item() == pytest.approx(guess["location"], abs=1e-4)
    # one head knows, the other says the mean
    known = 50.0 * torch.nn.functional.one_hot(count, 9)
    assert consistency_loss(known, location).item() == pytest.approx(guess["consistency"], rel=0.02)
    for within, name in ((0, "number_accuracy"), (1, "number_within_one")):
        best = max(float(number_accuracy(torch.eye(9)[k].expand(*count.shape, 9), mask, within)) for k in range(9))
        assert best == pytest.approx(guess[name], abs=0.01)
    assert float(location_accuracy(location, mask)) == guess["location_accuracy"]


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mask_ratio must be in \(0, 1\), got 1.5"):
        guessing(FLAT, 1.5, "uniform", 2)
    with pytest.raises(ValueError, match="mask_strategy must be one of"):
        guessing(FLAT, 0.4, "blocks", 2)


@pytest.mark.parametrize("position", ["full", "random"])
def test_visible_mean_error_agrees_with_a_loop(position: str) -> None:
    """The mean is that of all visible voxels of the crop; the error is that of the region's masked ones."""
    grid, channels = MaskGrid(12, 4, 2), 2
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(3, channels, 12, 12, 12, generator=generator) * 2 + 1
    mask = sample_mask(grid, 3, 0.4, generator=generator)
    region = full_region(grid) if position == "full" else choose_region(grid, "random", generator)
    hidden = expand_mask(mask, grid)
    samples = []
    for b in range(3):
        errors = []
        for c in range(channels):
            mean = image[b, c][~hidden[b, 0]].mean()
            box = image[b, c][region.box]
            errors += ((box[hidden[b, 0][region.box]] - mean) ** 2).tolist()
        samples.append(sum(errors) / len(errors))
    assert visible_mean_error(image, mask, region).item() == pytest.approx(sum(samples) / 3, rel=1e-5)
    # no other constant is better for a visible crop, so that the share of a network that learns falls below 1
    whole = torch.ones_like(mask)
    assert visible_mean_error(image, whole, region).isfinite()


def test_masked_voxels_are_counted_in_float16_too() -> None:
    """A crop of 64^3 has more voxels than the largest number of float16."""
    prediction = torch.full((1, 1, 64, 64, 64), 0.5, dtype=torch.float16)
    target, mask = torch.zeros_like(prediction), torch.ones(1, 1, 64, 64, 64, dtype=torch.bool)
    assert not prediction.sum().isfinite() or mask.sum() > torch.finfo(torch.float16).max
    error = masked_squared_error(prediction, target, mask)
    assert error.dtype == torch.float32 and error.item() == pytest.approx(0.25)
    mask[..., 32:] = False
    target[..., 32:] = 9
    assert masked_squared_error(prediction, target, mask).item() == pytest.approx(0.25)
