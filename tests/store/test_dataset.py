# SPDX-License-Identifier: Apache-2.0

"""Crops from a store are those of the bundles' own transforms on whole images."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose, RandFlipd, RandGaussianNoised

from hybridmim_components.data import make_dataset
from hybridmim_components.store import PreparedStore, StoreDataset, StoredVolumes

# rounding: half a HU of the window; half a step of 1/512 standard deviations
CASES = {
    "ct_store": ("msd_spleen_unet", 0.5 / (164 + 57) + 1e-6),
    "mri_store": ("brats2020_unet", 0.5 / 512 + 1e-6),
    "one_channel_store": ("msd_hippocampus_unet", 0.5 / 512 + 1e-6),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[PreparedStore, str, dict[str, Any], float]:
    store: PreparedStore = request.getfixturevalue(request.param)
    bundle, tolerance = CASES[request.param]
    return store, bundle, store.settings.as_dict(), tolerance


def everything(store: PreparedStore) -> StoredVolumes:
    return StoredVolumes(store, np.arange(len(store.rows)))


def image_of(item: dict[str, Any]) -> str | list[str]:
    return item["image"][0] if len(item["image"]) == 1 else item["image"]


class Located(StoreDataset):
    """Tells where each crop begins."""

    def _item(self, shard: Any, item: Any, start: Any, size: Any) -> dict[str, Any]:
        return super()._item(shard, item, start, size) | {"start": start}


def test_random_crops_are_parts_of_the_plainly_transformed_image(case: tuple, plain: Callable) -> None:
    store, bundle, settings, tolerance = case
    roi = [20, 33, 24]
    transforms = Compose(plain(bundle, "deterministic_transforms", settings, roi))
    data = everything(store)
    dataset = Located(data, roi, crops_per_volume=3)
    for index in range(2):
        whole = transforms({"image": image_of(data[index])})["image"]
        for item in dataset[index]:
            assert item["image"].dtype == torch.float32 and item["image"].shape[1:] == tuple(roi)
            box = tuple(slice(first, first + size) for first, size in zip(item["start"], roi, strict=True))
            same = whole[(slice(None), *box)]
            assert torch.isclose(item["image"], same, rtol=0, atol=tolerance).all()
            assert item["volume"] == data[index]["volume"]


@pytest.mark.parametrize("roi", [[32, 32, 32], [33, 21, 96], [96, 96, 96]])
def test_the_validation_crop_is_that_of_the_plain_path(case: tuple, plain: Callable, roi: list[int]) -> None:
    store, bundle, settings, tolerance = case
    data = everything(store)
    preprocessing = plain(bundle, "validate#preprocessing", settings, roi)
    for index in range(2):
        expected = preprocessing({"image": image_of(data[index])})["image"]
        crop = StoreDataset(data, roi)[index]["image"]
        assert torch.isclose(crop, expected, rtol=0, atol=tolerance).all()


def test_a_volume_smaller_than_the_crop_is_padded_as_in_the_plain_path(case: tuple, plain: Callable) -> None:
    store, bundle, settings, tolerance = case
    roi = [130, 130, 130]
    data = everything(store)
    expected = plain(bundle, "train#preprocessing", settings, roi)({"image": image_of(data[1])})[0]["image"]
    crop = StoreDataset(data, roi, crops_per_volume=1)[1][0]["image"]
    assert torch.isclose(crop, expected, rtol=0, atol=tolerance).all()


def test_each_foreground_voxel_is_as_likely_a_centre(ct_store: PreparedStore) -> None:
    """Centres are drawn as RandCropByPosNegLabeld draws them: chi-squared over octants of the foreground."""
    dataset = Located(everything(ct_store), [1, 1, 1], crops_per_volume=2500)
    dataset.set_random_state(seed=3)
    drawn = dataset[0]
    values = torch.stack([item["image"] for item in drawn]).ravel()
    assert (values > 0).all()
    whole = StoreDataset(everything(ct_store), ct_store.rows[0]["shape"][1:].tolist(), crops_per_volume=1)[0][0][
        "image"
    ]
    foreground = whole[whole > 0]
    edges = torch.quantile(foreground, torch.linspace(0, 1, 9)[1:-1])
    expected = torch.bincount(torch.bucketize(foreground, edges), minlength=8) / len(foreground) * len(values)
    observed = torch.bincount(torch.bucketize(values, edges), minlength=8)
    assert float(((observed - expected) ** 2 / expected).sum()) < 24.3  # 0.1 % of chi-squared with 7 degrees

    centres = np.array([item["start"] for item in drawn])
    voxels = np.argwhere(whole[0].numpy() > 0)
    middle = np.median(voxels, axis=0)
    expected_octants = np.bincount((voxels > middle) @ [1, 2, 4], minlength=8) / len(voxels) * len(centres)
    octants = np.bincount((centres > middle) @ [1, 2, 4], minlength=8)
    assert ((octants - expected_octants) ** 2 / expected_octants).sum() < 24.3


def test_draws_follow_the_random_state_and_nothing_else(ct_store: PreparedStore) -> None:
    dataset = StoreDataset(everything(ct_store), [16, 16, 16], 2, Compose([RandGaussianNoised("image", prob=1.0)]))
    dataset.set_random_state(seed=7)
    first = [item["image"] for item in dataset[2]]
    np.random.seed(1)
    torch.manual_seed(1)
    dataset[0]
    dataset.set_random_state(seed=7)
    again = [item["image"] for item in dataset[2]]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], dataset[2][0]["image"])


def test_workers_give_collated_batches(ct_store: PreparedStore) -> None:
    dataset = make_dataset(everything(ct_store), Compose([]), "store", roi_size=[16, 16, 16], crops_per_volume=2)
    for num_workers in (0, 2):
        batches = list(DataLoader(dataset, batch_size=2, num_workers=num_workers, drop_last=True))
        assert [batch["image"].shape for batch in batches] == [(4, 1, 16, 16, 16)] * 2
        assert batches[0]["volume"][0] == batches[0]["volume"][1] != batches[0]["volume"][2]


def test_a_spawned_worker_maps_the_index_anew(ct_store: PreparedStore) -> None:
    dataset = StoreDataset(everything(ct_store), [16, 16, 16], 1)
    content = pickle.dumps(dataset)
    assert len(content) < 10_000
    copy = pickle.loads(content)
    assert torch.equal(copy.set_random_state(1)[0][0]["image"], dataset.set_random_state(1)[0][0]["image"])


def test_what_follows_the_crop_is_run_on_crops(ct_store: PreparedStore, plain: Callable) -> None:
    steps = list(plain("msd_spleen_unet", "train#preprocessing", ct_store.settings.as_dict(), [16, 16, 16]).transforms)
    flip = RandFlipd("image", prob=1.0, spatial_axis=0)
    kinds = {"store": ct_store, "roi_size": [16, 16, 16], "crops_per_volume": 1}
    data = everything(kinds.pop("store"))
    with_flip: Any = make_dataset(data, Compose([*steps, flip]), "store", **kinds)
    without: Any = make_dataset(data, Compose(steps), "store", **kinds)
    with_flip.set_random_state(5)
    without.set_random_state(5)
    assert torch.equal(with_flip[0][0]["image"], without[0][0]["image"].flip(1))
    with pytest.raises(ValueError, match="cache 'store' needs random transforms after the crop, got RandFlipd before"):
        make_dataset(data, Compose([*steps[:-2], flip, *steps[-2:]]), "store", **kinds)


def test_finetuning_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="cache 'store' is for pre-training from a prepared store"):
        make_dataset([{"image": "x"}], Compose([]), "store", roi_size=[16, 16, 16])
