# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from hybridmim_components.workflow.segmentation_scores import ClassScore, MeanScore, mean_scores, segmentation_scores

SPACING = (0.8, 1.5, 3.0)


def box(start: tuple[int, ...], size: tuple[int, ...], shape: tuple[int, ...] = (24, 20, 16)) -> torch.Tensor:
    mask = torch.zeros((1, *shape), dtype=torch.bool)
    mask[0][tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))] = True
    return mask


def ball(radius: float, size: int, spacing: tuple[float, ...]) -> torch.Tensor:
    """Voxels whose centre is at most radius (mm) away from the central voxel."""
    axes = [(np.arange(size) - size // 2) * mm for mm in spacing]
    squared = sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij"))
    return torch.from_numpy(squared <= radius**2)[None]


def surface_slowly(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Places in mm of the voxels with a face neighbour outside the mask or the image."""
    padded, places = np.pad(mask, 1), []
    for voxel in itertools.product(*map(range, mask.shape)):
        neighbours = [
            padded[tuple(v + 1 + (step if a == axis else 0) for a, v in enumerate(voxel))]
            for axis in range(mask.ndim)
            for step in (-1, 1)
        ]
        if mask[voxel] and not all(neighbours):
            places.append([v * mm for v, mm in zip(voxel, spacing, strict=True)])
    return np.array(places)


def hd95_slowly(pred: np.ndarray, label: np.ndarray, spacing: tuple[float, ...]) -> float:
    surfaces = [surface_slowly(mask, spacing) for mask in (pred, label)]
    percentiles = []
    for one, other in (surfaces, surfaces[::-1]):
        nearest = sorted(min(math.dist(place, target) for target in other) for place in one)
        rank = 0.95 * (len(nearest) - 1)
        low, high = nearest[math.floor(rank)], nearest[math.ceil(rank)]
        percentiles.append(low + (high - low) * (rank % 1))
    return max(percentiles)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_shifted_boxes(axis: int, shift: int) -> None:
    size = (6, 7, 8)
    start = tuple(2 + shift * (a == axis) for a in range(3))
    [score] = segmentation_scores(box(start, size), box((2, 2, 2), size), SPACING, ["organ"])
    voxels = math.prod(size)
    # each face is more than 5 % of the surface, so that the 95th percentile is the shift itself
    assert score.dice == pytest.approx((size[axis] - shift) / size[axis])
    assert score.hd95_mm == pytest.approx(shift * SPACING[axis])
    assert (score.class_name, score.label_voxels, score.pred_voxels, score.flag) == ("organ", voxels, voxels, "")


def test_disjoint_boxes_at_opposite_image_borders() -> None:
    [score] = segmentation_scores(box((0, 0, 0), (1, 20, 16)), box((23, 0, 0), (1, 20, 16)), SPACING, ["organ"])
    assert (score.dice, score.hd95_mm, score.flag) == (0, pytest.approx(23 * 0.8), "")


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 0.5, 2.0)])
def test_concentric_balls(spacing: tuple[float, float, float]) -> None:
    small, large = (ball(radius, 49, spacing) for radius in (7.0, 11.0))
    [score] = segmentation_scores(small, large, spacing, ["ball"])
    n, m = int(small.sum()), int(large.sum())
    assert score.dice == pytest.approx(2 * n / (n + m))
    assert score.dice == pytest.approx(2 * 7**3 / (7**3 + 11**3), abs=0.03)
    assert score.hd95_mm == pytest.approx(4.0, abs=max(spacing))


@pytest.mark.parametrize("seed", range(6))
def test_random_masks_agree_with_voxel_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # sparse and dense masks, among them such that touch the image border
    masks = rng.random((2, 3, 6, 5, 4)) < np.array([0.05, 0.4, 0.9])[:, None, None, None]
    masks[:, :, 2, 2, 2] = True
    pred, label = masks
    scores = segmentation_scores(torch.from_numpy(pred), torch.from_numpy(label), SPACING, ["a", "b", "c"])
    for score, p, t in zip(scores, pred, label, strict=True):
        assert score.dice == pytest.approx(2 * np.sum(p & t) / (p.sum() + t.sum()))
        assert score.hd95_mm == pytest.approx(hd95_slowly(p, t, SPACING), rel=1e-5)
        assert (score.label_voxels, score.pred_voxels) == (t.sum(), p.sum())


def test_overlapping_classes_are_scored_on_their_own() -> None:
    label = torch.cat([box((2, 2, 2), (8, 8, 8)), box((4, 4, 4), (4, 4, 4))])
    pred = torch.cat([box((2, 2, 2), (8, 8, 8)), box((6, 4, 4), (4, 4, 4))])
    whole, core = segmentation_scores(pred, label, (1, 1, 1), ["WT", "TC"])
    assert (whole.dice, whole.hd95_mm, core.dice, core.hd95_mm) == (1, 0, 0.5, 2)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float16])
@pytest.mark.parametrize("kind", [torch.Tensor, MetaTensor])
def test_every_kind_of_zeros_and_ones(dtype: torch.dtype, kind: type) -> None:
    pred, label = (kind(box((x, 2, 2), (5, 5, 5)).to(dtype)) for x in (2, 3))
    [score] = segmentation_scores(pred, label, (1, 1, 1), ["organ"])
    assert (score.dice, score.hd95_mm) == (pytest.approx(0.8), 1)
    assert type(score.dice) is type(score.hd95_mm) is float


@pytest.mark.filterwarnings("error")
def test_classes_that_are_absent_missed_or_false_positive() -> None:
    nothing, something = torch.zeros(1, 24, 20, 16, dtype=torch.bool), box((1, 1, 1), (2, 3, 4))
    diagonal = math.sqrt((24 * 0.8) ** 2 + (20 * 1.5) ** 2 + (16 * 3.0) ** 2)
    scores = segmentation_scores(
        torch.cat([nothing, nothing, something]), torch.cat([nothing, something, nothing]), SPACING, ["a", "b", "c"]
    )
    assert scores == [
        ClassScore("a", 1, 0, 0, 0, "absent"),
        ClassScore("b", 0, scores[1].hd95_mm, 24, 0, "missed"),
        ClassScore("c", 0, scores[2].hd95_mm, 0, 24, "false positive"),
    ]
    assert [score.hd95_mm for score in scores] == pytest.approx([0, diagonal, diagonal])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pred": torch.ones(2, 4, 4, 5)}, r"pred must have the shape of label, \(2, 4, 4, 4\), got \(2, 4, 4, 5\)"),
        ({"class_names": ["a"]}, r"class_names must name each of the 2 channels, got \['a'\]"),
        ({"spacing": (1, 1)}, r"spacing must have one number per spatial axis \(3\), got \[1, 1\]"),
        ({"spacing": (1, 0, 1)}, r"spacing must be positive and finite, got \[1, 0, 1\]"),
        ({"spacing": (1, -2, 1)}, "spacing must be positive and finite"),
        ({"spacing": (1, math.nan, 1)}, "spacing must be positive and finite"),
        ({"pred": torch.full((2, 4, 4, 4), 0.5)}, "pred must hold only 0 and 1, got 0.5 in class 'a'"),
        ({"label": torch.full((2, 4, 4, 4), math.nan)}, "label must hold only 0 and 1, got nan in class 'a'"),
        ({"pred": torch.tensor(1), "label": torch.tensor(1)}, "label must have a channel axis"),
    ],
)
def test_bad_arguments_are_named(change: dict, message: str) -> None:
    good = {
        "pred": torch.ones(2, 4, 4, 4),
        "label": torch.ones(2, 4, 4, 4),
        "spacing": (1, 1, 1),
        "class_names": ["a", "b"],
    }
    with pytest.raises(ValueError, match=message):
        segmentation_scores(**(good | change))


def test_means_leave_out_cases_without_the_class() -> None:
    scores = [
        ClassScore("a", 0.5, 4.0, 10, 10, ""),
        ClassScore("b", 1.0, 0.0, 0, 0, "absent"),
        ClassScore("a", 0.0, 8.0, 10, 0, "missed"),
        ClassScore("b", 0.0, 9.0, 0, 10, "false positive"),
        ClassScore("a", 1.0, 0.0, 0, 0, "absent"),
    ]
    a, b = mean_scores(scores)
    assert a == MeanScore("a", 0.25, 6.0, 2, 1)
    assert (b.class_name, b.cases, b.absent_cases) == ("b", 0, 2)
    assert math.isnan(b.dice) and math.isnan(b.hd95_mm)
    assert mean_scores([]) == []
