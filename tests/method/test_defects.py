# SPDX-License-Identifier: Apache-2.0

"""One test per defect of the authors' released code, so that none of them comes back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.networks.nets import BasicUNet, SwinUNETR
from torch.nn import functional as F

from hybridmim_components.data import pretraining_lists, split_cases
from hybridmim_components.method import HybridMIM
from hybridmim_components.method.losses import HybridMIMLoss, consistency_loss, contrast_loss, partial_region_loss
from hybridmim_components.method.masking import MaskGrid, expand_mask, sample_mask
from hybridmim_components.method.partial_region import choose_region
from hybridmim_components.weights import load_pretrained, save_weights
from hybridmim_components.workflow.preflight import check_pretraining

BUNDLES = sorted((Path(__file__).parents[2] / "bundles").glob("hybridmim_*"))
GRID = MaskGrid(48, 16, 8)


def unet(**kwargs) -> BasicUNet:
    return BasicUNet(**{"features": (4, 4, 8, 8, 16, 4), "dropout": 0.1, **kwargs})


def test_defect_1_labels_match_space() -> None:
    grid = MaskGrid(96, 32, 16)
    mask = sample_mask(grid, 1, generator=torch.Generator().manual_seed(0))
    voxels = expand_mask(mask, grid).float()
    for s in range(27):
        i, j, k = (32 * n for n in (s // 9, s // 3 % 3, s % 3))
        box = voxels[0, 0, i : i + 32, j : j + 32, k : k + 32]
        patches = [box[a : a + 16, b : b + 16, c : c + 16] for a in (0, 16) for b in (0, 16) for c in (0, 16)]
        assert [p.mean().item() for p in patches] == mask[0, s].float().tolist()


def test_defect_2_background_is_not_taken_for_masked() -> None:
    image, prediction = torch.zeros(1, 1, 8, 8, 8), torch.full((1, 1, 8, 8, 8), 0.5)
    mask = torch.zeros(1, 1, 8, 8, 8, dtype=torch.bool)
    assert partial_region_loss(prediction, image, mask) == 0
    mask[..., 0] = True
    prediction[..., 0] = 0.25
    assert partial_region_loss(prediction, image, mask).item() == pytest.approx(0.0625)


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda b: b.name)
def test_defect_3_crops_are_not_padded_where_the_volume_is_large_enough(bundle: Path) -> None:
    config = ConfigParser.load_config_file(bundle / "configs" / "pretrain.json")
    parser = ConfigParser({**config, "roi_size": [32, 32, 32], "crops_per_volume": 2})
    crop, pad = (parser.get_parsed_content(f"train#random_transforms#{i}") for i in (0, 1))
    image = torch.rand(1, 40, 33, 50) + 0.5
    for item in crop({"image": MetaTensor(image)}):
        assert pad(item)["image"].shape == (1, 32, 32, 32) and item["image"].shape == (1, 32, 32, 32)
        assert (pad(item)["image"] > 0).all()


def test_defect_4_consistency_teaches_both_heads() -> None:
    number = torch.randn(2, 27, 9, requires_grad=True)
    location = torch.randn(2, 27, 8, requires_grad=True)
    consistency_loss(number, location).backward()
    assert number.grad is not None and number.grad.abs().min() > 0
    assert location.grad is not None and location.grad.abs().min() > 0


def test_defect_5_dropout_acts_in_every_encoder_stage_and_the_views_differ() -> None:
    torch.manual_seed(0)
    model = HybridMIM(unet(features=(8, 8, 16, 16, 32, 8)), GRID)
    stages = (
        model.network.conv_0,
        model.network.down_1,
        model.network.down_2,
        model.network.down_3,
        model.network.down_4,
    )
    x = torch.rand(2, 8, 16, 16, 16)
    for stage in stages:
        channels = next(m.in_channels for m in stage.modules() if isinstance(m, torch.nn.Conv3d))
        assert not torch.equal(
            stage(x[:, :1].expand(-1, channels, -1, -1, -1)), stage(x[:, :1].expand(-1, channels, -1, -1, -1))
        )
    image = torch.rand(2, 1, 48, 48, 48)
    outputs = model(image, sample_mask(GRID, 2), choose_region(GRID))
    distance = (outputs["view1"] - outputs["view2"]).norm(dim=1) / outputs["view1"].norm(dim=1)
    assert (distance > 0.01).all()


def test_defect_5_the_contrast_is_not_constant() -> None:
    """Instance norm makes the means over tokens of any two samples nearly equal; centring takes out what they share."""
    torch.manual_seed(0)
    model = HybridMIM(unet(features=(8, 8, 16, 16, 32, 8)), GRID)
    image = torch.rand(3, 1, 48, 48, 48) * torch.linspace(0, 1, 48) ** torch.tensor([0, 1, 4]).view(3, 1, 1, 1, 1)
    mask, cosines, losses = sample_mask(GRID, 3, generator=torch.Generator().manual_seed(0)), [], []
    for _ in range(30):
        with torch.no_grad():
            outputs = model(image, mask, choose_region(GRID, "corner"))
        cosines.append(torch.cosine_similarity(outputs["view1"][0], outputs["view1"][1], dim=0).item())
        losses.append(contrast_loss(outputs["view1"], outputs["view2"]).item())
    assert cosines[0] > 0.95 and sum(cosines[-10:]) / 10 < 0.5
    # all cosines equal: log(5), the constant that it must not stay; test_learning.py shows that it falls
    assert abs(losses[0] - math.log(5)) < 0.01
    assert max(losses[-10:]) - min(losses[-10:]) > 0.1


@pytest.mark.slow
def test_defect_6_every_token_enters_the_contrast() -> None:
    grid = MaskGrid(64, 32, 16)
    model = HybridMIM(SwinUNETR(1, 2, feature_size=12, drop_rate=0.1), grid)
    bottlenecks = []
    model.network.swinViT.register_forward_hook(lambda module, inputs, output: bottlenecks.append(output[-1]))
    outputs = model(torch.rand(2, 1, 64, 64, 64), sample_mask(grid, 2), choose_region(grid))
    # the second view, without gradient, passes before the first
    (gradient,) = torch.autograd.grad(outputs["view1"].square().sum(), bottlenecks[1])
    assert gradient.shape[2:] == (2, 2, 2) and (gradient.abs().sum(1) > 0).all()


@pytest.mark.parametrize("volume", [None, torch.tensor([3, 3])], ids=["one crop", "one volume"])
def test_defect_6_a_batch_without_negatives_is_refused(volume: torch.Tensor | None) -> None:
    size = 1 if volume is None else 2
    model = HybridMIM(unet(), GRID)
    image, mask, region = torch.rand(size, 1, 48, 48, 48), sample_mask(GRID, size), choose_region(GRID)
    outputs = model(image, mask, region)
    with pytest.raises(ValueError, match="needs crops of at least 2 volumes in a batch"):
        HybridMIMLoss()(outputs, image, mask, region, volume)
    assert HybridMIMLoss(contrast_weight=0)(outputs, image, mask, region, volume)["loss"].isfinite()


def test_defect_6_a_run_without_negatives_is_refused_before_it_reads_a_volume(tmp_path: Path) -> None:
    lists = {"training": [{"image": "nowhere.nii.gz"}] * 4, "validation": [], "held_out": []}
    with pytest.raises(ValueError, match="got batch_size 2 with crops_per_volume 2"):
        check_pretraining(lists, tmp_path, batch_size=2, crops_per_volume=2, contrast_weight=0.1)


def test_defect_7_the_region_moves_and_its_loss_is_finite_without_masked_voxels() -> None:
    generator = torch.Generator().manual_seed(0)
    assert len({choose_region(GRID, generator=generator).start for _ in range(50)}) == 8
    prediction = torch.rand(2, 1, 8, 8, 8, requires_grad=True)
    loss = partial_region_loss(prediction, torch.rand(2, 1, 8, 8, 8), torch.zeros(2, 1, 8, 8, 8, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and prediction.grad is not None and prediction.grad.isfinite().all()


def make_msd(folder: Path, count: int) -> Path:
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
        for i in range(count):
            (folder / part / f"spleen_{i}.nii.gz").touch()
    return folder


@pytest.mark.parametrize("fold", range(5))
def test_defect_8_held_out_cases_are_disjoint_and_never_reach_pretraining(tmp_path: Path, fold: int) -> None:
    root = make_msd(tmp_path / "msd", 20)
    split = split_cases([f"spleen_{i}" for i in range(20)], fold)
    assert not set(split.training) & set(split.validation)
    # the whole data set, held-out cases included, is offered a second time as unlabelled
    lists = pretraining_lists("msd_spleen", str(root), [str(root / "imagesTr")], fold)
    seen = [Path(item["image"]).name[:-7] for part in ("training", "validation") for item in lists[part]]
    assert sorted(seen) == sorted(split.training)
    assert not {i["image"] for i in lists["training"]} & {i["image"] for i in lists["validation"]}
    assert lists == pretraining_lists("msd_spleen", str(root), [str(root / "imagesTr")], fold)


def test_defect_11_and_12_two_models_are_independent_and_segment_whole_crops() -> None:
    first = HybridMIM(unet(), GRID)
    second = HybridMIM(unet(), GRID)
    shared = {p.data_ptr() for p in first.parameters()} & {p.data_ptr() for p in second.parameters()}
    assert not shared
    assert {n: p.shape for n, p in first.named_parameters()} == {n: p.shape for n, p in second.named_parameters()}
    assert first.network(torch.rand(1, 1, 48, 48, 48)).shape == (1, 2, 48, 48, 48)


def test_defect_13_one_channel_weights_reach_a_four_channel_network(tmp_path: Path) -> None:
    source = unet(dropout=0.0)
    save_weights(tmp_path / "model.pt", source, {})
    target = unet(in_channels=4, out_channels=3, dropout=0.0)
    report = load_pretrained(target, tmp_path / "model.pt", restore_scale=False)
    assert report.adapted == ["conv_0.conv_0.conv.weight"] and report.share == 1
    # four equal channels look to the adapted stem like the one channel it was trained on
    x = torch.rand(1, 1, 32, 32, 32)
    stem = (source.conv_0.conv_0.conv, target.conv_0.conv_0.conv)
    assert torch.allclose(stem[0](x), stem[1](x.expand(-1, 4, -1, -1, -1)), atol=1e-5)


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda b: b.name)
def test_defect_10_every_pass_draws_every_volume(bundle: Path) -> None:
    """The passes go on from one epoch to the next: five of four steps each are two passes through 20 volumes."""
    config = json.loads((bundle / "configs" / "pretrain.json").read_text())
    config["volumes"] = {"training": [{"volume": i} for i in range(20)]}
    config["train"]["preprocessing"] = {"_target_": "Compose", "transforms": []}
    small = {"num_workers": 0, "cache": "memory", "batch_size": 4, "crops_per_volume": 2, "steps_per_epoch": 4}
    loader = ConfigParser({**config, **small}).get_parsed_content("train#dataloader")
    drawn = []
    for epoch in range(1, 6):
        loader.begin(epoch)
        batches = [batch["volume"].tolist() for batch in loader]
        assert [len(set(batch)) for batch in batches] == [2] * 4
        drawn += [volume for batch in batches for volume in batch]
    assert sorted(drawn[:20]) == sorted(drawn[20:]) == list(range(20)) and drawn[:20] != drawn[20:]


def test_released_masking_is_within_reach() -> None:
    """The released recipe is a set of knobs: uniform masks, zero fill, fixed corner."""
    model = HybridMIM(unet(), GRID, mask_fill="zero")
    mask, region = sample_mask(GRID, 2, strategy="uniform"), choose_region(GRID, "corner")
    assert F.relu(model(torch.rand(2, 1, 48, 48, 48), mask, region)["reconstruction"]).shape[2:] == (32, 32, 32)
