# SPDX-License-Identifier: Apache-2.0

"""The labels found slab by slab against those of the usual pipeline: Activationsd, Invertd, AsDiscreted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Activationsd, AsDiscreted, Compose, Invertd, Lambdad, LoadImaged, Orientationd, Spacingd

from hybridmim_components.inference import CropToBodyd, SlabwiseInvertd
from hybridmim_components.inference.voxel_map import VoxelMap

CLASSES = 5
SHEARED = [[1.1, 0.0, 0.0, -20], [0.0, 1.3, 0.6, 5], [0.0, 0.0, 2.9, 7], [0, 0, 0, 1]]
OBLIQUE = np.diag([0.0, 0.0, 0.0, 1.0])
OBLIQUE[:3, :3] = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]]) @ np.diag([-1.1, -1.3, 2.9])
SWAPPED = [[0, 0, 2.9, 3], [-1.1, 0, 0, 4], [0, 1.3, 0, 5], [0, 0, 0, 1]]
GRIDS: dict[str, tuple[Sequence[int], Any]] = {
    "ras": ((30, 26, 22), np.diag([1.1, 1.3, 2.9, 1])),
    "lps": ((30, 26, 22), np.diag([-1.1, -1.3, 2.9, 1])),
    "thick slices": ((31, 27, 9), np.diag([0.7, 0.7, 7.0, 1])),
    "one slice": ((24, 25, 1), np.diag([0.8, 0.8, 5.0, 1])),
    "one column": ((1, 25, 24), np.diag([0.8, 0.8, 0.8, 1])),
    "already at the spacing": ((20, 21, 22), np.diag([-1.5, 1.5, 2.0, 1])),
    "finer than the network": ((40, 41, 42), np.diag([0.4, 0.45, 0.5, 1])),
    "oblique": ((30, 26, 22), OBLIQUE),
    "axes swapped": ((22, 26, 30), SWAPPED),
    "sheared": ((30, 26, 22), SHEARED),
}


def image_file(folder: Path, shape: Sequence[int], affine: Any, margin: int = 0) -> Path:
    """A file of smooth noise above -300, in air of ``margin`` voxels on every side."""
    rng = np.random.default_rng(0)
    volume = np.full(shape, -1000, np.float32)
    inner = tuple(slice(margin, n - margin) for n in shape)
    volume[inner] = rng.uniform(-300, 300, volume[inner].shape)
    nib.save(nib.Nifti1Image(volume, np.asarray(affine, float)), folder / "image.nii.gz")
    return folder / "image.nii.gz"


def preprocessing(crop: bool = False) -> Compose:
    steps: list[Any] = [
        LoadImaged("image", ensure_channel_first=True),
        Orientationd("image", axcodes="RAS", labels=None),
        Spacingd("image", pixdim=(1.5, 1.5, 2.0), mode="bilinear"),
    ]
    if crop:
        steps.append(CropToBodyd("image", threshold=-500, roi_size=8, keep_windows=False, margin=2))
    return Compose(steps)


def outputs(image: MetaTensor, classes: int = CLASSES) -> torch.Tensor:
    """Logits that change from voxel to voxel, and none of which wins everywhere."""
    return 3 * torch.rand((classes, *image.shape[1:]), generator=torch.Generator().manual_seed(0))


def usual(item: dict[str, Any], transform: Compose) -> MetaTensor:
    steps = [
        Activationsd("pred", softmax=True),
        Invertd("pred", transform=transform, orig_keys="image", nearest_interp=False, to_tensor=True),
        AsDiscreted("pred", argmax=True),
    ]
    return Compose(steps)(dict(item))["pred"]


def slabwise(item: dict[str, Any], slab_size: int = 8) -> MetaTensor:
    return SlabwiseInvertd("pred", [Activationsd("pred", softmax=True)], slab_size=slab_size)(item)["pred"]


def same(one: MetaTensor, other: MetaTensor) -> float:
    assert one.shape == other.shape
    return (one.as_tensor() == other.as_tensor()).float().mean().item()


@pytest.mark.parametrize("grid", GRIDS)
def test_labels_are_those_of_the_usual_pipeline_on_any_grid(grid: str, tmp_path: Path) -> None:
    shape, affine = GRIDS[grid]
    transform = preprocessing()
    item: dict[str, Any] = transform({"image": str(image_file(tmp_path, shape, affine))})
    item["pred"] = outputs(item["image"])
    expected, found = usual(item, transform), slabwise(item)
    assert found.dtype == torch.uint8 and found.shape == (1, *shape)
    np.testing.assert_allclose(found.affine, affine, atol=1e-5)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)
    assert same(found, expected) > 0.9995


def test_a_cropped_image_gives_labels_where_it_was_kept_and_background_elsewhere(tmp_path: Path) -> None:
    transform = preprocessing(crop=True)
    item: dict[str, Any] = transform({"image": str(image_file(tmp_path, (40, 44, 38), OBLIQUE, margin=9))})
    item["pred"] = outputs(item["image"]) + 1
    item["pred"][0] = -9  # background wins nowhere, so that the padding is seen
    expected, found = usual(item, transform), slabwise(item)
    outside = torch.ones((40, 44, 38), dtype=torch.bool)
    outside[5:-5, 5:-5, 5:-5] = False
    assert found[0][outside].sum() == expected[0][outside].sum() == 0
    assert (found[0][10:-10, 10:-10, 10:-10] > 0).all()
    assert same(found[:, 9:-9, 9:-9, 9:-9], expected[:, 9:-9, 9:-9, 9:-9]) == 1


def test_overlapping_channels_are_decoded_as_in_the_usual_pipeline(tmp_path: Path) -> None:
    transform = preprocessing()
    item: dict[str, Any] = transform({"image": str(image_file(tmp_path, *GRIDS["lps"]))})
    item["pred"] = outputs(item["image"], 3) - 1.5
    activation, decode = (
        Activationsd("pred", sigmoid=True),
        [AsDiscreted("pred", threshold=0.5), Lambdad("pred", regions)],
    )
    invert = Invertd("pred", transform=transform, orig_keys="image", nearest_interp=False, to_tensor=True)
    expected = Compose([activation, invert, *decode])(dict(item))["pred"]
    found = SlabwiseInvertd("pred", [activation], decode)(item)["pred"]
    assert same(found, expected) > 0.9995 and set(found.unique().tolist()) == {0, 1, 2, 4}


def regions(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x[2:] > 0, 4, torch.where(x[:1] > 0, 1, torch.where(x[1:2] > 0, 2, 0))).to(torch.uint8)


@pytest.mark.parametrize("grid", ["lps", "sheared"])
def test_slabs_of_any_size_give_the_same_labels(grid: str, tmp_path: Path) -> None:
    item: dict[str, Any] = preprocessing()({"image": str(image_file(tmp_path, *GRIDS[grid]))})
    item["pred"] = outputs(item["image"])
    one, several, whole = (slabwise(item, size) for size in (1, 7, 100))
    assert same(one, whole) == same(several, whole) == 1


def test_the_first_of_equal_channels_wins(tmp_path: Path) -> None:
    item: dict[str, Any] = preprocessing()({"image": str(image_file(tmp_path, *GRIDS["ras"]))})
    item["pred"] = torch.zeros((3, *item["image"].shape[1:]))
    item["pred"][1:] = 1
    assert slabwise(item).unique().tolist() == [1]


def test_classes_are_never_held_at_the_images_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item: dict[str, Any] = preprocessing()({"image": str(image_file(tmp_path, *GRIDS["finer than the network"]))})
    item["pred"] = outputs(item["image"])
    sizes, read = [], VoxelMap.read

    def watched(*arguments: Any) -> torch.Tensor:
        result = read(*arguments)
        sizes.append(result.numel())
        return result

    monkeypatch.setattr(VoxelMap, "read", watched)
    slabwise(item, 8)
    assert max(sizes) == 8 * 41 * 42


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="slab_size must be at least 1, got 0"):
        SlabwiseInvertd("pred", [], slab_size=0)
    item: dict[str, Any] = preprocessing()({"image": str(image_file(tmp_path, *GRIDS["ras"]))})
    with pytest.raises(ValueError, match="pred must lie on the grid of image"):
        slabwise({**item, "pred": torch.zeros(2, 4, 4, 4)})
    with pytest.raises(ValueError, match="it lacks .*spatial_shape"):
        slabwise({"image": torch.zeros(1, 4, 4, 4), "pred": torch.zeros(2, 4, 4, 4)})
    with pytest.raises(ValueError, match="source_affine must be invertible"):
        VoxelMap(np.zeros((4, 4)), (4, 4, 4), np.eye(4), (4, 4, 4))
