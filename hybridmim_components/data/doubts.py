# SPDX-License-Identifier: Apache-2.0

"""Warnings about readable volumes that are unusual, with the value and the usual range. No volume is refused."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, cast

import nibabel as nib
import numpy as np
from monai.data import MetaTensor

from hybridmim_components.data.nifti_header import stored_affines
from hybridmim_components.data.volumes import VolumeRules

__all__ = ["doubts_of_image", "doubts_of_label", "warn_of"]

logger = logging.getLogger(__name__)
_MOST_LINES = 20


class Usual(NamedTuple):
    """Range of usual values, which cause no warning."""

    low: float
    high: float
    unit: str

    def doubt(self, what: str, values: Iterable[float], why: str = "") -> Iterator[str]:
        """Yield a text if any of the values lies outside the range."""
        values = [float(value) for value in values]
        if not all(self.low <= value <= self.high for value in values):
            got = " x ".join(f"{value:.3g}" for value in values)
            yield f"{what} is {got} {self.unit}, usual is {self.low:g} to {self.high:g} {self.unit}{why}"


SPACING = Usual(0.2, 10, "mm")
EXTENT = Usual(25, 2500, "mm")
AIR = Usual(1, 99, "%")
SOFT_TISSUE = Usual(2, 99, "%")
BACKGROUND = Usual(5, 98, "%")
EMPTY_SLICES = Usual(0, 25, "%")
FOREGROUND = Usual(0.0001, 50, "%")
_FEWEST_VALUES = 20  # a label map has fewer; BTCV has 14
_SAMPLE = 100_000
_AIR_HU = (-1500, -500)  # lower values are padding
_SOFT_HU = (-200, 200)
_RIGHT_ANGLE = 0.02  # cosine of 89 degrees


def doubts_of_image(image: MetaTensor, files: Sequence[str], rules: VolumeRules) -> list[str]:
    """List what is unusual about an image.

    Args:
        image: (C, H, W, D) in RAS, as :func:`.read_volume` returns it.
        files: files that the image was read from.
        rules: requirements on the image. The values of CT are checked as HU.

    Returns:
        One text for each doubt, without the file's name.
    """
    spacing = [float(mm) for mm in image.pixdim]
    doubts = [
        *SPACING.doubt("spacing", spacing),
        *EXTENT.doubt("extent", [mm * n for mm, n in zip(spacing, image.shape[1:], strict=True)]),
        *_doubts_of_axes(np.asarray(image.affine)[:3, :3] / spacing),
    ]
    for name in files:
        doubts += _doubts_of_header(name)
    for voxels in np.asarray(image):
        doubts += _doubts_of_voxels(voxels, rules)
    return list(dict.fromkeys(doubts))


def doubts_of_label(label: MetaTensor) -> list[str]:
    """List what is unusual about a label that :func:`.check_label` has returned."""
    share = 100 * float(np.count_nonzero(np.asarray(label))) / label.numel()
    return list(FOREGROUND.doubt("share of labelled voxels", [share]))


def warn_of(doubts: Sequence[str]) -> None:
    """Log doubts as one warning, and only the first ones if there are many. Each must name what it is about."""
    if doubts:
        more = [f"and {len(doubts) - _MOST_LINES} more"] if len(doubts) > _MOST_LINES else []
        logger.warning("Unusual, and used all the same:\n  %s", "\n  ".join([*doubts[:_MOST_LINES], *more]))


def _doubts_of_voxels(voxels: np.ndarray, rules: VolumeRules) -> Iterator[str]:
    if rules.hounsfield:
        shifted = "; HU may be shifted by 1024, scaled or clipped"
        for what, (low, high), usual in (("air", _AIR_HU, AIR), ("soft tissue", _SOFT_HU, SOFT_TISSUE)):
            share = 100 * float(np.count_nonzero((voxels > low) & (voxels < high))) / voxels.size
            yield from usual.doubt(f"share of {what} ({low} to {high} HU)", [share], shifted)
    if rules.zero_background:
        share = 100 * float(np.count_nonzero(voxels == 0)) / voxels.size
        yield from BACKGROUND.doubt("share of background (0)", [share], "; the skull may not be stripped")
    sample = np.unique(voxels.ravel()[:: max(1, voxels.size // _SAMPLE)])
    if len(sample) < _FEWEST_VALUES:
        sample = np.unique(voxels)  # the sample may have missed slices
    if len(sample) < _FEWEST_VALUES and bool((sample == np.round(sample)).all()):
        yield f"it holds {len(sample)} values, all whole, usual is {_FEWEST_VALUES} and more: is it a label map?"
    empty = 100 * float(np.mean(voxels.min(axis=(0, 1)) == voxels.max(axis=(0, 1))))
    yield from EMPTY_SLICES.doubt("share of slices that hold one value", [empty])


def _doubts_of_axes(directions: np.ndarray) -> Iterator[str]:
    cosines = np.abs(directions.T @ directions - np.eye(3))
    if cosines.max() > _RIGHT_ANGLE:
        angle = np.degrees(np.arccos(min(1.0, float(cosines.max()))))
        yield f"axes meet at {angle:.3g} degrees, usual is 90: the volume is sheared, and resampling will not undo it"


def _doubts_of_header(name: str) -> Iterator[str]:
    """Yield what a NIfTI header leaves open about the orientation."""
    if not name.lower().endswith((".nii", ".nii.gz")):
        return
    header = cast(nib.Nifti1Header, nib.load(name).header)
    sform, qform = stored_affines(header)
    if not header["sform_code"] and not header["qform_code"]:
        yield "neither sform nor qform is set, usual is one of them: which side is left is a guess"
    elif header["sform_code"] and sform is None:
        yield "the sform is not finite or has another spacing than pixdim, usual is the same: the qform is used"
    elif sform is not None and qform is not None and nib.aff2axcodes(sform) != nib.aff2axcodes(qform):
        codes = ["".join(nib.aff2axcodes(affine)) for affine in (sform, qform)]
        yield f"sform ({codes[0]}) and qform ({codes[1]}) disagree about the axes, usual is one orientation"
