# SPDX-License-Identifier: Apache-2.0

"""The windows that see the body are those of the whole image, and give the same there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from torch import nn

from hybridmim_components.inference import CropToBodyd
from hybridmim_components.inference.crop_to_body import touching_windows

ROI = (8, 10, 12)


def image_of(shape: tuple[int, ...], body: tuple[slice, ...]) -> MetaTensor:
    """Noise of soft tissue in air."""
    volume = torch.full((1, *shape), -1000.0)
    volume[(slice(None), *body)] = torch.randn(volume[(slice(None), *body)].shape) * 40
    return MetaTensor(volume, affine=torch.eye(4))


def cropped(image: MetaTensor, **settings: Any) -> MetaTensor:
    result: MetaTensor = CropToBodyd("image", threshold=-500, roi_size=ROI, **settings)({"image": image})["image"]
    return result


@pytest.mark.parametrize("overlap", [0.25, 0.5])
@pytest.mark.parametrize(
    "body",
    [
        (slice(14, 20), slice(17, 25), slice(3, 30)),
        (slice(0, 5), slice(29, 41), slice(20, 21)),  # at two borders of the image
        (slice(20, 33), slice(0, 41), slice(0, 37)),
    ],
)
def test_the_output_inside_the_body_is_that_of_the_whole_image(body: tuple[slice, ...], overlap: float) -> None:
    torch.manual_seed(0)
    image = image_of((33, 41, 37), body)
    # instance norm: what a window gives depends on all that it sees
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.Conv3d(4, 2, 3, padding=1))
    inferer = SlidingWindowInferer(roi_size=ROI, sw_batch_size=1, overlap=overlap)
    crop = cropped(image, overlap=overlap)
    start = crop.affine[:3, 3].int().tolist()
    assert crop.numel() < image.numel()
    with torch.no_grad():
        whole, part = (inferer(volume.as_tensor()[None], network)[0] for volume in (image, crop))
    moved = tuple(slice(b.start - s, b.stop - s) for b, s in zip(body, start, strict=True))
    torch.testing.assert_close(part[(slice(None), *moved)], whole[(slice(None), *body)], atol=1e-5, rtol=1e-5)


def test_the_box_of_the_body_alone_is_smaller() -> None:
    image = image_of((33, 41, 37), (slice(14, 20), slice(17, 25), slice(0, 30)))
    tight = cropped(image, keep_windows=False, margin=2)
    assert tight.shape == (1, 10, 12, 32) and tight.affine[:3, 3].tolist() == [12, 15, 0]


def test_windows_are_those_that_touch() -> None:
    # windows of 8, every 4: 0, 4, ... 20, and the last one at 22
    assert touching_windows(30, 8, 0.5, 8, 9) == (4, 16)
    assert touching_windows(30, 8, 0.5, 7, 8) == (0, 12)
    assert touching_windows(30, 8, 0.5, 29, 30) == (22, 30)
    assert touching_windows(30, 40, 0.5, 3, 4) == (0, 30)


@pytest.mark.parametrize("value", [-1000.0, float("nan"), 300.0])
def test_an_image_without_a_body_or_without_air_stays_whole(value: float) -> None:
    image = MetaTensor(torch.full((1, 33, 41, 37), value), affine=torch.eye(4))
    for keep_windows in (True, False):
        result = cropped(image, keep_windows=keep_windows)
        np.testing.assert_array_equal(result.as_tensor(), image.as_tensor())
