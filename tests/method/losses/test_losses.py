# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser
from monai.losses import ContrastiveLoss, DiceLoss

from hybridmim_components.method.losses import (
    LOSS_TERMS,
    HybridMIMLoss,
    consistency_loss,
    contrast_loss,
    location_loss,
    masked_squared_error,
    number_loss,
    partial_region_loss,
)
from hybridmim_components.method.masking import MaskGrid, expand_mask, sample_mask
from hybridmim_components.method.partial_region import choose_region

BUNDLES = Path(__file__).parents[3] / "bundles"

GRID = MaskGrid(12, 4, 2)


@pytest.fixture
def example() -> dict:
    torch.manual_seed(0)
    mask = sample_mask(GRID, 3, generator=torch.Generator().manual_seed(0))
    return {
        "mask": mask,
        "image": torch.rand(3, 2, 12, 12, 12),
        "number": torch.randn(3, 27, 9, requires_grad=True),
        "location": torch.randn(3, 27, 8, requires_grad=True),
        "view1": torch.randn(3, 16, requires_grad=True),
        "view2": torch.randn(3, 16),
    }


def outputs_of(example: dict, region) -> dict:
    reconstruction = torch.rand_like(region.crop(example["image"])).requires_grad_()
    return {"reconstruction": reconstruction, **{k: example[k] for k in ("number", "location", "view1", "view2")}}


def test_partial_region_loss_agrees_with_a_loop(example: dict) -> None:
    prediction, image, mask = torch.rand(3, 2, 4, 4, 4), torch.rand(3, 2, 4, 4, 4), torch.rand(3, 1, 4, 4, 4) < 0.3
    mask[2] = False
    samples = []
    for b in range(3):
        errors = [
            (prediction[b, c, i, j, k] - image[b, c, i, j, k]).item() ** 2
            for c in range(2)
            for i in range(4)
            for j in range(4)
            for k in range(4)
            if mask[b, 0, i, j, k]
        ]
        samples.append(sum(errors) / len(errors) if errors else 0.0)
    assert masked_squared_error(prediction, image, mask).tolist() == pytest.approx(samples, rel=1e-5)
    assert partial_region_loss(prediction, image, mask).item() == pytest.approx(sum(samples) / 3, rel=1e-5)


def test_number_loss_agrees_with_a_loop(example: dict) -> None:
    logits, mask = example["number"], example["mask"]
    total = 0.0
    for b in range(3):
        for s in range(27):
            row = logits[b, s].tolist()
            total -= math.log(math.exp(row[int(mask[b, s].sum())]) / sum(map(math.exp, row)))
    assert number_loss(logits, mask).item() == pytest.approx(total / 81, rel=1e-5)


def test_location_loss_agrees_with_a_loop(example: dict) -> None:
    logits, mask = example["location"], example["mask"]
    total = 0.0
    for logit, masked in zip(logits.flatten().tolist(), mask.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        total -= math.log(p if masked else 1 - p)
    assert location_loss(logits, mask).item() == pytest.approx(total / mask.numel(), rel=1e-5)


def test_consistency_loss_agrees_with_a_loop(example: dict) -> None:
    number, location = example["number"], example["location"]
    total = 0.0
    for b in range(3):
        for s in range(27):
            weights = [math.exp(v) for v in number[b, s].tolist()]
            expected = sum(k * w for k, w in enumerate(weights)) / sum(weights)
            total += (expected - sum(1 / (1 + math.exp(-v)) for v in location[b, s].tolist())) ** 2
    assert consistency_loss(number, location).item() == pytest.approx(total / 81, rel=1e-5)


def test_consistency_is_zero_where_both_heads_agree() -> None:
    number = torch.full((1, 1, 9), -50.0)
    number[..., 3] = 50.0
    location = torch.tensor([[[50.0] * 3 + [-50.0] * 5]])
    assert consistency_loss(number, location).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_contrast_equals_monai_where_all_others_are_negatives(temperature: float) -> None:
    view1, view2 = torch.randn(5, 8), torch.randn(5, 8)
    expected = ContrastiveLoss(temperature)(view1, view2)
    assert torch.allclose(contrast_loss(view1, view2, temperature), expected, rtol=1e-5)
    assert torch.allclose(contrast_loss(view1, view2, temperature, torch.arange(5)), expected, rtol=1e-5)


def test_contrast_leaves_out_other_crops_of_the_same_volume() -> None:
    torch.manual_seed(0)
    views, volume, temperature = torch.randn(2, 4, 8), torch.tensor([0, 0, 1, 2]), 0.5
    flat = [(v, i) for v in range(2) for i in range(4)]
    losses = []
    for v, i in flat:

        def similarity(w: int, j: int, v: int = v, i: int = i) -> float:
            return math.exp(torch.cosine_similarity(views[v, i], views[w, j], dim=0).item() / temperature)

        negatives = [similarity(w, j) for w, j in flat if volume[j] != volume[i]]
        positive = similarity(1 - v, i)
        losses.append(-math.log(positive / (positive + sum(negatives))))
    assert contrast_loss(views[0], views[1], temperature, volume).item() == pytest.approx(sum(losses) / 8, rel=1e-5)


def test_total_is_the_weighted_sum(example: dict) -> None:
    region = choose_region(GRID, "corner")
    loss = HybridMIMLoss(1.0, 0.2, 0.3, 0.4, 0.5)
    terms = loss(outputs_of(example, region), example["image"], example["mask"], region)
    expected = sum(w * terms[name] for w, name in zip((1.0, 0.2, 0.3, 0.4, 0.5), LOSS_TERMS, strict=True))
    assert set(terms) == {"loss", *LOSS_TERMS}
    assert torch.allclose(terms["loss"], expected)


def test_every_term_has_gradient_where_it_should(example: dict) -> None:
    region = choose_region(GRID, "corner")
    reaches = {
        "partial_region": {"reconstruction"},
        "number": {"number"},
        "location": {"location"},
        "consistency": {"number", "location"},
        "contrast": {"view1"},
    }
    for name, expected in reaches.items():
        outputs = outputs_of(example, region)
        inputs = {k: v for k, v in outputs.items() if v.requires_grad}
        terms = HybridMIMLoss()(outputs, example["image"], example["mask"], region)
        gradients = torch.autograd.grad(terms[name], list(inputs.values()), allow_unused=True)
        reached = {k for k, g in zip(inputs, gradients, strict=True) if g is not None and g.abs().sum() > 0}
        assert reached == expected, name


@pytest.mark.parametrize("filled", [True, False])
def test_every_term_is_finite_for_a_mask_of_all_or_nothing(example: dict, filled: bool) -> None:
    region = choose_region(GRID, "corner")
    outputs = outputs_of(example, region)
    mask = torch.full_like(example["mask"], filled)
    terms = HybridMIMLoss()(outputs, example["image"], mask, region)
    terms["loss"].backward()
    assert all(t.isfinite() for t in terms.values())
    assert outputs["reconstruction"].grad.isfinite().all()


def test_a_weight_of_zero_needs_no_output(example: dict) -> None:
    region = choose_region(GRID, "corner")
    outputs = {"reconstruction": outputs_of(example, region)["reconstruction"]}
    terms = HybridMIMLoss(1, 0, 0, 0, 0)(outputs, example["image"], example["mask"], region)
    assert [terms[n].item() for n in LOSS_TERMS[1:]] == [0] * 4
    voxels = region.crop(expand_mask(example["mask"], GRID))
    expected = partial_region_loss(outputs["reconstruction"], region.crop(example["image"]), voxels)
    assert torch.equal(terms["loss"], expected)


def test_wrong_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="number_weight must be 0 or more and finite, got -1"):
        HybridMIMLoss(number_weight=-1)
    with pytest.raises(ValueError, match="at least one loss weight"):
        HybridMIMLoss(0, 0, 0, 0, 0)
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        HybridMIMLoss(temperature=0)


def test_the_loss_of_brats_is_dice_and_binary_cross_entropy() -> None:
    config = json.loads((BUNDLES / "hybridmim_brats2020_unet_segmentation" / "configs" / "train.json").read_text())
    loss = ConfigParser({"loss": config["loss"]}).get_parsed_content("loss")
    logits, target = torch.randn(2, 3, 4, 4, 4), torch.randint(2, (2, 3, 4, 4, 4)).float()
    expected = DiceLoss(sigmoid=True)(logits, target) + F.binary_cross_entropy_with_logits(logits, target)
    assert torch.allclose(loss(logits, target), expected, atol=1e-6)
