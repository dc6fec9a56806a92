# SPDX-License-Identifier: Apache-2.0

"""Crops drawn from counts are MONAI's, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Lambdad, RandCropByLabelClassesd, RandCropByPosNegLabeld

from hybridmim_components.data import CountedCropByLabelClassesd, CountedCropByPosNegLabeld, PlaneCountsd, make_dataset

SHAPE = (13, 11, 9)
BOTH = {"keys": ["image", "label"], "label_key": "label", "num_samples": 3, "allow_smaller": True}


def volume(label: str) -> dict[str, Any]:
    """An image that is 0 or less in places, and a label with classes 1 and 3 in some planes, but 2 in none."""
    generator = torch.Generator().manual_seed(1)
    classes = torch.zeros(1, *SHAPE)
    classes[:, 3:5, 2:9] = 1
    classes[:, 8, 4, 4] = 3
    if label == "empty":
        classes[:] = 0
    elif label == "full":
        classes[:] = 1
    elif label == "channels":
        classes = torch.cat([classes > 0, classes == 1, classes == 3])
    image = torch.rand(1, *SHAPE, generator=generator) - 0.3
    return {"image": MetaTensor(image), "label": MetaTensor(classes), "case_id": "a"}


def assert_equal_crops(plain: Any, counted: Any, item: dict[str, Any], counts: PlaneCountsd) -> None:
    with_counts = counts(item)
    for seed in range(25):
        expected = plain.set_random_state(seed=seed)(dict(item))
        found = counted.set_random_state(seed=seed)(dict(with_counts))
        assert len(found) == len(expected) == 3
        for one, other in zip(found, expected, strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in ("image", "label"))
            assert one["image"].meta["crop_center"] == other["image"].meta["crop_center"]


@pytest.mark.filterwarnings("ignore:Num foregrounds")
@pytest.mark.parametrize("size", [(4, 5, 6), (20, 5, 6)])
@pytest.mark.parametrize("label", ["one", "channels", "empty", "full"])
@pytest.mark.parametrize("image_key", [None, "image"])
def test_crops_by_foreground_are_monais(image_key: str | None, label: str, size: tuple[int, ...]) -> None:
    settings = {**BOTH, "spatial_size": size, "image_key": image_key, "image_threshold": 0.2, "neg": 2.0}
    plain, counted = RandCropByPosNegLabeld(**settings), CountedCropByPosNegLabeld(**settings)
    assert_equal_crops(plain, counted, volume(label), PlaneCountsd("label", image_key, 0.2))


@pytest.mark.parametrize("ratios", [None, [1, 2, 1, 5]])
@pytest.mark.parametrize("image_key", [None, "image"])
def test_crops_by_class_are_monais(image_key: str | None, ratios: list[int] | None) -> None:
    settings = {**BOTH, "spatial_size": (4, 5, 6), "image_key": image_key, "ratios": ratios, "num_classes": 4}
    plain, counted = (kind(**settings, warn=False) for kind in (RandCropByLabelClassesd, CountedCropByLabelClassesd))
    assert_equal_crops(plain, counted, volume("one"), PlaneCountsd("label", image_key, num_classes=4))


def test_counts_are_those_of_the_label() -> None:
    item = PlaneCountsd(num_classes=4)(volume("one"))
    counts, label = item["label_counts"], item["label"].as_tensor()[0]
    assert counts.shape == (4, 13) and counts[2].sum() == 0
    assert torch.equal(counts, torch.stack([(label == c).sum(dim=(1, 2)) for c in range(4)]))


def by_foreground(**settings: Any) -> CountedCropByPosNegLabeld:
    return CountedCropByPosNegLabeld(**{**BOTH, "spatial_size": (4, 5, 6), **settings})


def test_counts_of_another_rule_are_refused() -> None:
    item = PlaneCountsd("label", "image", 0.5)(volume("one"))
    with pytest.raises(ValueError, match="must have the same image_key, image_threshold and num_classes, got"):
        by_foreground(image_key="image", pos=0.0).set_random_state(seed=0)(item)


@pytest.mark.parametrize("wrong", [{"num_classes": None}, {"num_classes": 4, "max_samples_per_class": 9}])
def test_classes_need_their_number_and_all_voxels(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="need num_classes and no max_samples_per_class, got"):
        CountedCropByLabelClassesd(**BOTH, spatial_size=(4, 5, 6), **wrong)


@pytest.mark.parametrize("crop", [by_foreground, RandCropByPosNegLabeld])
def test_what_is_done_to_a_crop_does_not_reach_the_memory_cache(crop: Callable) -> None:
    in_place = Lambdad("image", lambda x: x.zero_())
    steps = [PlaneCountsd(), crop(**BOTH | {"spatial_size": (20, 20, 20)}), in_place]
    dataset: Any = make_dataset([volume("one")], Compose(steps), "memory")
    assert dataset[0][0]["image"].sum() == 0
    assert torch.equal(dataset._cache[0]["image"], volume("one")["image"])
