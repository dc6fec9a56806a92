# SPDX-License-Identifier: Apache-2.0

"""Dice and 95 % Hausdorff distance of one segmented image, class by class, and their means over cases."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from monai.metrics import compute_dice, compute_hausdorff_distance
from torch import Tensor

__all__ = ["ClassScore", "MeanScore", "mean_scores", "segmentation_scores"]


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class of one image.

    Attributes:
        class_name: the class.
        dice: Dice score, 0 to 1.
        hd95_mm: symmetric 95 % Hausdorff distance of the surfaces in mm.
        label_voxels: number of voxels of the class in the truth.
        pred_voxels: number of voxels of the class in the prediction.
        flag: empty, or ``absent`` (in neither), ``missed`` (in the truth only) or ``false positive`` (in the
            prediction only).

    Example:
        >>> label = torch.zeros(2, 4, 4, 4)
        >>> label[0, :2] = 1
        >>> for score in segmentation_scores(torch.zeros(2, 4, 4, 4), label, (1, 1, 1), ["liver", "tumour"]):
        ...     print(score.class_name, score.dice, score.label_voxels, score.flag)
        liver 0.0 32 missed
        tumour 1.0 0 absent
    """

    class_name: str
    dice: float
    hd95_mm: float
    label_voxels: int
    pred_voxels: int
    flag: str


@dataclass(frozen=True)
class MeanScore:
    """Mean of one class over the cases whose truth contains it.

    Attributes:
        class_name: the class.
        dice: mean Dice score; NaN if ``cases`` is 0.
        hd95_mm: mean 95 % Hausdorff distance in mm; NaN if ``cases`` is 0.
        cases: number of cases whose truth contains the class, missed ones included.
        absent_cases: number of cases whose truth does not contain the class. They do not enter the means.

    Example:
        >>> mean_scores([ClassScore("tumour", 1.0, 0.0, 0, 0, "absent")])
        [MeanScore(class_name='tumour', dice=nan, hd95_mm=nan, cases=0, absent_cases=1)]
    """

    class_name: str
    dice: float
    hd95_mm: float
    cases: int
    absent_cases: int


def segmentation_scores(
    pred: Tensor, label: Tensor, spacing: Sequence[float], class_names: Sequence[str]
) -> list[ClassScore]:
    """Score each class of one image on its own, so that classes may overlap.

    A class that neither prediction nor truth contains gets Dice 1 and 0 mm. A class that only one of them contains gets
    Dice 0. Its distance is not defined, so it gets the diagonal of the image in mm, the largest possible distance.

    Args:
        pred: prediction, (C, H, W, D) of booleans or zeros and ones, without a background channel.
        label: truth, of the same shape and kind.
        spacing: voxel size in mm, one number per spatial axis.
        class_names: one name per channel.

    Returns:
        One score per channel, in the order of ``class_names``.

    Raises:
        ValueError: if shapes, number of names or spacing do not fit together, or if values are not 0 or 1.

    Example:
        >>> label = torch.zeros(1, 4, 4, 4)
        >>> label[0, :2] = 1
        >>> segmentation_scores(label.roll(1, dims=1), label, spacing=(3, 1, 1), class_names=["spleen"])
        [ClassScore(class_name='spleen', dice=0.5, hd95_mm=3.0, label_voxels=32, pred_voxels=32, flag='')]
    """
    _check(pred, label, spacing, class_names)
    diagonal = math.hypot(*(size * mm for size, mm in zip(label.shape[1:], spacing, strict=True)))
    return [
        _score(
            name, _binary(pred[i].to(label.device), "pred", name), _binary(label[i], "label", name), spacing, diagonal
        )
        for i, name in enumerate(class_names)
    ]


def mean_scores(scores: Iterable[ClassScore]) -> list[MeanScore]:
    """Average each class over the cases whose truth contains it. The other cases are only counted.

    Args:
        scores: scores of any number of cases.

    Returns:
        One mean per class, in the order in which the classes appear.

    Example:
        >>> scores = [ClassScore("spleen", 0.8, 2.0, 90, 95, ""), ClassScore("spleen", 1.0, 0.0, 0, 0, "absent")]
        >>> mean_scores(scores)
        [MeanScore(class_name='spleen', dice=0.8, hd95_mm=2.0, cases=1, absent_cases=1)]
    """
    by_class: dict[str, list[ClassScore]] = {}
    for score in scores:
        by_class.setdefault(score.class_name, []).append(score)
    return [_mean(name, class_scores) for name, class_scores in by_class.items()]


def _mean(name: str, scores: list[ClassScore]) -> MeanScore:
    present = [score for score in scores if score.label_voxels > 0]
    cases = len(present)
    dice = sum(score.dice for score in present) / cases if cases else math.nan
    hd95 = sum(score.hd95_mm for score in present) / cases if cases else math.nan
    return MeanScore(name, dice, hd95, cases, len(scores) - cases)


def _score(name: str, pred: Tensor, label: Tensor, spacing: Sequence[float], diagonal: float) -> ClassScore:
    pred_voxels, label_voxels = int(pred.sum()), int(label.sum())
    if not pred_voxels and not label_voxels:
        return ClassScore(name, 1.0, 0.0, 0, 0, "absent")
    if not pred_voxels or not label_voxels:
        flag = "missed" if label_voxels else "false positive"
        return ClassScore(name, 0.0, diagonal, label_voxels, pred_voxels, flag)
    # crop here, since MONAI first copies the whole image as float32; use the CPU, so that all devices agree
    box = _bounding_box(pred | label)
    pred, label = pred[box].cpu()[None, None], label[box].cpu()[None, None]
    dice = compute_dice(pred, label, include_background=True, ignore_empty=False)
    hd95 = compute_hausdorff_distance(pred, label, include_background=True, percentile=95, spacing=list(spacing))
    return ClassScore(name, float(dice), float(hd95), label_voxels, pred_voxels, "")


def _bounding_box(mask: Tensor) -> tuple[slice, ...]:
    box = []
    for axis in range(mask.ndim):
        others = [other for other in range(mask.ndim) if other != axis]
        inside = (mask.any(dim=others) if others else mask).nonzero()
        box.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return tuple(box)


def _binary(channel: Tensor, which: str, name: str) -> Tensor:
    plain = channel.as_subclass(Tensor)
    if plain.dtype is torch.bool:
        return plain
    binary = plain == 1
    wrong = plain[~binary & (plain != 0)]
    if len(wrong):
        raise ValueError(f"{which} must hold only 0 and 1, got {wrong[0].item()} in class {name!r}")
    return binary


def _check(pred: Tensor, label: Tensor, spacing: Sequence[float], class_names: Sequence[str]) -> None:
    if pred.shape != label.shape:
        raise ValueError(f"pred must have the shape of label, {tuple(label.shape)}, got {tuple(pred.shape)}")
    if label.ndim < 2:
        raise ValueError(f"label must have a channel axis and spatial axes, got shape {tuple(label.shape)}")
    if len(class_names) != len(label):
        raise ValueError(f"class_names must name each of the {len(label)} channels, got {list(class_names)}")
    if len(spacing) != label.ndim - 1:
        raise ValueError(f"spacing must have one number per spatial axis ({label.ndim - 1}), got {list(spacing)}")
    if not all(math.isfinite(mm) and mm > 0 for mm in spacing):
        raise ValueError(f"spacing must be positive and finite, got {list(spacing)}")
