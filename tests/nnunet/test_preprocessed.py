# SPDX-License-Identifier: Apache-2.0

"""Which preprocessed images pre-training sees, and the crops that are drawn from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandShiftIntensityd

from hybridmim_components.nnunet import PreprocessedCrops, fold_cases, preprocessed_lists, read_plan
from hybridmim_components.workflow.preflight import check_pretraining

PLAN: dict[str, Any] = {"dataset": 4, "plans": "nnUNetPlans", "configuration": "3d_fullres", "fold": 0}


def write_image(path: Path, voxels: np.ndarray) -> None:
    import blosc2

    path.unlink(missing_ok=True)
    blosc2.asarray(voxels, urlpath=str(path), mode="w", chunks=voxels.shape)


def read_image(path: str | Path) -> torch.Tensor:
    import blosc2

    return torch.from_numpy(blosc2.open(str(path), mode="r")[...])


def names(images: Any) -> set[str]:
    return {Path(item["image"]).stem for item in images}


def check(folder: Path, **arguments: Any) -> dict[str, Any]:
    """What the config's ``volumes`` holds."""
    return check_pretraining(preprocessed_lists(**{**PLAN, **arguments}), folder, 2, 1, 0.1)


def test_a_split_is_made_as_nnunet_makes_it_and_read_thereafter(write_dataset: Callable) -> None:
    folder = write_dataset()
    training, validation = fold_cases(read_plan(4), 1)
    splits = json.loads((folder / "splits_final.json").read_text())
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    assert splits == generate_crossval_split([f"case_{i}" for i in range(6)], seed=12345, n_splits=5)
    assert (training, validation) == (splits[1]["train"], splits[1]["val"])
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["case_0", "case_1"], "val": ["case_5"]}]))
    assert fold_cases(read_plan(4), 0) == (["case_0", "case_1"], ["case_5"])
    assert len(fold_cases(read_plan(4), "all")[0]) == 6
    with pytest.raises(ValueError, match="fold must be all or one of 0 to 0, those of .*splits_final.json, got 3"):
        fold_cases(read_plan(4), 3)
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["case_9"], "val": ["case_5"]}]))
    with pytest.raises(ValueError, match=r"names 1 case\(s\) that are not in .*, such as case_9"):
        fold_cases(read_plan(4), 0)


def test_too_few_cases_to_split_are_refused(write_dataset: Callable) -> None:
    write_dataset(cases=4)
    with pytest.raises(ValueError, match="nnU-Net splits at least 5 cases, got 4"):
        fold_cases(read_plan(4), 0)


def test_pretraining_sees_the_training_cases_alone(write_dataset: Callable, tmp_path: Path) -> None:
    write_dataset()
    training, validation = fold_cases(read_plan(4), 0)
    found = check(tmp_path)
    own = names(found["training"]) | names(found["validation"])
    assert own == set(training) and own.isdisjoint(validation)
    assert names(found["training"]).isdisjoint(names(found["validation"]))
    assert len(found["fingerprints"]) == len(training)


def test_copies_of_held_out_cases_in_another_data_set_are_left_out(write_dataset: Callable, tmp_path: Path) -> None:
    own = write_dataset()
    other = write_dataset("Dataset005_Other", cases=3, seed=50) / "nnUNetPlans_3d_fullres"
    _, validation = fold_cases(read_plan(4), 0)
    copy = read_image(own / "nnUNetPlans_3d_fullres" / f"{validation[0]}.b2nd").numpy()
    write_image(other / "renamed.b2nd", copy)
    found = check(tmp_path, also=str(other))
    seen = names(found["training"]) | names(found["validation"])
    assert "renamed" not in seen and {"case_0", "case_1", "case_2"} <= seen
    assert len(found["training"]) + len(found["validation"]) == 4 + 3


def test_images_of_other_preprocessing_are_refused(write_dataset: Callable, tmp_path: Path) -> None:
    write_dataset()
    other = write_dataset("Dataset005_Other", cases=3, seed=50, spacing=[2.0, 1.0, 1.0]) / "nnUNetPlans_3d_fullres"
    with pytest.raises(ValueError, match="got other axes, another spacing or normalisation in .*Dataset005_Other"):
        check(tmp_path, also=[str(other)])
    path = other.parent / "nnUNetPlans.json"
    moved = json.loads((other.parents[1] / "Dataset004_Small" / "nnUNetPlans.json").read_text())
    path.write_text(json.dumps({**moved, "transpose_forward": [2, 1, 0]}))
    with pytest.raises(ValueError, match="got other axes, another spacing or normalisation in .*Dataset005_Other"):
        check(tmp_path, also=[str(other)])
    path.write_text(json.dumps(moved))
    assert len(check(tmp_path, also=[str(other)])["fingerprints"]) == 4 + 3
    with pytest.raises(ValueError, match="also must name folders such as .*Dataset004_Small/nnUNetPlans_3d_fullres"):
        check(tmp_path, also=[str(other.parent)])


@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        (np.full((1, 20, 20, 20), np.nan, np.float32), "finite values only, got NaN or infinity in {path}"),
        (np.zeros((2, 20, 20, 20), np.float32), r"1 channel\(s\) and 3 axes, got \(2, 20, 20, 20\) in {path}"),
        (None, "cannot read the image {path}"),
    ],
)
def test_unusable_images_are_named(
    write_dataset: Callable, tmp_path: Path, voxels: np.ndarray | None, message: str
) -> None:
    path = write_dataset() / "nnUNetPlans_3d_fullres" / "case_2.b2nd"
    if voxels is None:
        path.write_bytes(b"nothing")
    else:
        write_image(path, voxels)
    with pytest.raises(ValueError, match=message.format(path=path)):
        check(tmp_path, fold="all")


def test_fingerprints_are_remembered_until_an_image_changes(write_dataset: Callable, tmp_path: Path) -> None:
    folder = write_dataset() / "nnUNetPlans_3d_fullres"
    cache = tmp_path / "images.json"
    first = preprocessed_lists(**PLAN, cache_file=cache)["pool"].digests
    content = json.loads(cache.read_text())
    unchanged = str(folder / "case_1.b2nd")
    content[unchanged][1] = ["0123456789abcdef"]
    cache.write_text(json.dumps(content))
    write_image(folder / "case_2.b2nd", np.random.default_rng(0).random((1, 20, 20, 20), np.float32))
    second = preprocessed_lists(**PLAN, cache_file=cache)["pool"].digests
    changed = {path for path in first if first[path] != second[path]}
    assert changed == {unchanged, str(folder / "case_2.b2nd")} and second[unchanged] == ["0123456789abcdef"]


def test_crops_are_the_voxels_of_the_file_in_place_padded_as_by_nnunet(write_dataset: Callable) -> None:
    path = write_dataset() / "nnUNetPlans_3d_fullres" / "case_3.b2nd"
    voxels = read_image(path)
    crops = PreprocessedCrops([{"image": str(path), "volume": 7}], (32, 40, 32), crops_per_volume=4)
    crops.set_random_state(3)
    places = set()
    for crop in crops[0]:
        assert crop["image"].shape == (1, 32, 40, 32) and crop["volume"] == 7
        # 30 voxels lie between one voxel of padding on both sides
        assert not crop["image"][..., [0, -1]].any()
        inner = crop["image"][..., 1:-1]
        offsets = [(i, j) for i in range(36 - 31) for j in range(44 - 39)]
        place = [o for o in offsets if torch.equal(voxels[:, o[0] : o[0] + 32, o[1] : o[1] + 40], inner)]
        assert len(place) == 1
        places.update(place)
    assert len(places) > 1
    crops.set_random_state(3)
    again = [crop["image"] for crop in crops[0]]
    crops.set_random_state(3)
    assert all(torch.equal(a, b["image"]) for a, b in zip(again, crops[0], strict=True))
    (middle,) = [PreprocessedCrops(crops.data, (32, 40, 32))[0]]
    assert torch.equal(middle["image"][..., 1:-1], voxels[:, 2:34, 2:42])


def test_random_transforms_follow_the_seed_of_the_crops(write_dataset: Callable) -> None:
    path = write_dataset() / "nnUNetPlans_3d_fullres" / "case_3.b2nd"
    transform = Compose([RandShiftIntensityd("image", 0.5, prob=1.0)])
    crops = PreprocessedCrops([{"image": str(path), "volume": 7}], (8, 8, 8), 1, transform)
    drawn = []
    for seed in (1, 2, 1):
        crops.set_random_state(seed)
        drawn.append(crops[0][0]["image"])
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
