# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import BasicUNet, SwinUNETR, UNet

from hybridmim_components.method import HybridMIM
from hybridmim_components.method.losses import HybridMIMLoss
from hybridmim_components.method.masking import MaskGrid, expand_mask, sample_mask
from hybridmim_components.method.partial_region import choose_region, full_region

UNET_GRID = MaskGrid(48, 16, 8)
SWIN_GRID = MaskGrid(64, 32, 16)


def unet(**kwargs) -> BasicUNet:
    return BasicUNet(**{"features": (4, 4, 8, 8, 16, 4), "dropout": 0.1, "out_channels": 2, **kwargs})


def swin(**kwargs) -> SwinUNETR:
    return SwinUNETR(**{"in_channels": 1, "out_channels": 2, "feature_size": 12, "drop_rate": 0.1, **kwargs})


def test_masked_voxels_reach_the_network_as_the_fill_only() -> None:
    mask = sample_mask(UNET_GRID, 2)
    hidden = expand_mask(mask, UNET_GRID)
    x = torch.rand(2, 1, 48, 48, 48)
    for fill, value in (("zero", 0), ("token", -3), ("constant", -3)):
        model = HybridMIM(unet(), UNET_GRID, mask_fill=fill, fill_value=-3.0).eval()
        region = full_region(UNET_GRID)
        masked = model.apply_mask(x, mask)
        assert torch.equal(masked[~hidden], x[~hidden])
        assert (masked[hidden] == value).all()
        other = torch.where(hidden, torch.rand_like(x), x)
        outputs = model(x, mask, region)
        assert torch.equal(outputs["masked"], masked)
        for name, output in outputs.items():
            assert torch.equal(output, model(other, mask, region)[name])


def test_number_and_location_read_the_voxels_of_their_own_subvolume_each_in_its_place() -> None:
    grid = MaskGrid(64, 32, 16)
    model = HybridMIM(unet(), grid).eval()
    bottlenecks = []
    model.network.down_4.register_forward_hook(lambda module, inputs, output: bottlenecks.append(output))
    outputs = model(torch.rand(1, 1, 64, 64, 64), sample_mask(grid, 1), full_region(grid))
    (bottleneck,) = bottlenecks
    assert bottleneck.shape[2:] == (4, 4, 4)
    for s in range(8):
        i, j, k = s // 4, s // 2 % 2, s % 2
        box = bottleneck[0, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, 2 * k : 2 * k + 2].flatten()
        for name, head in (("number", model.number_head), ("location", model.location_head)):
            assert torch.allclose(outputs[name][0, s], head(box), atol=1e-5)


def test_region_limits_what_the_decoder_computes() -> None:
    model = HybridMIM(unet(), UNET_GRID)
    seen = []
    model.network.upcat_1.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[2:]))
    model(torch.rand(1, 1, 48, 48, 48), sample_mask(UNET_GRID, 1), choose_region(UNET_GRID, "corner"))
    assert seen == [(32, 32, 32)]


def test_terms_that_are_off_cost_nothing() -> None:
    model = HybridMIM(unet(), UNET_GRID, perception=False, contrast=False)
    calls = []
    model.network.conv_0.register_forward_hook(lambda *_: calls.append(1))
    outputs = model(torch.rand(1, 1, 48, 48, 48), sample_mask(UNET_GRID, 1), full_region(UNET_GRID))
    assert set(outputs) == {"masked", "reconstruction"} and len(calls) == 1
    model = HybridMIM(unet(), UNET_GRID, partial_region=False, contrast=False)
    model.network.upcat_4.register_forward_hook(lambda *_: calls.append(2))
    arguments = torch.rand(1, 1, 48, 48, 48), sample_mask(UNET_GRID, 1), full_region(UNET_GRID)
    assert set(model(*arguments)) == {"masked", "number", "location"} and 2 not in calls
    assert "reconstruction" in model.eval()(*arguments), "validation measures it all the same"


@pytest.mark.slow
def test_the_second_view_of_swin_passes_the_transformer_alone() -> None:
    model = HybridMIM(swin(), SWIN_GRID)
    calls = []
    for name in ("swinViT", "encoder1", "encoder2", "encoder10"):
        model.network.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: calls.append((name, *inputs[0].shape[2:]))
        )
    region = choose_region(SWIN_GRID, "corner")
    model(torch.rand(2, 1, 64, 64, 64), sample_mask(SWIN_GRID, 2), region)
    assert [name for name, *_ in calls].count("swinViT") == 2
    # and the residual blocks of the skips see the region alone
    side = region.size[0] * 32
    assert ("encoder1", side, side, side) in calls and ("encoder2", *[side // 2] * 3) in calls
    assert [name for name, *_ in calls].count("encoder10") == 1


def test_second_view_has_gradient_only_on_request() -> None:
    x, mask, region = torch.rand(2, 1, 48, 48, 48), sample_mask(UNET_GRID, 2), full_region(UNET_GRID)
    for wanted in (False, True):
        model = HybridMIM(unet(), UNET_GRID, second_view_grad=wanted)
        assert model(x, mask, region)["view2"].requires_grad is wanted


def test_a_batch_that_is_not_finite_leaves_no_trace_in_the_centre_of_the_contrast() -> None:
    """The step is dropped, but the centre would stay NaN for good, and so would every later loss."""
    model, mask, region = HybridMIM(unet(), UNET_GRID), sample_mask(UNET_GRID, 2), full_region(UNET_GRID)
    for spoilt in (False, True, False):
        x = torch.rand(2, 1, 48, 48, 48)
        x[0, 0, 0, 0, 0] = torch.inf if spoilt else 0
        before = model.projection_center.clone()
        outputs = model(x, torch.zeros_like(mask) if spoilt else mask, region)
        assert outputs["view1"].isfinite().all() != spoilt
        assert torch.equal(model.projection_center, before) == spoilt and model.projection_center.isfinite().all()


def test_two_dimensional_networks_work_alike() -> None:
    grid = MaskGrid((96, 96), (32, 32), (16, 16))
    model = HybridMIM(unet(spatial_dims=2), grid)
    mask, region = sample_mask(grid, 2), choose_region(grid)
    x = torch.rand(2, 1, 96, 96)
    terms = HybridMIMLoss()(model(x, mask, region), x, mask, region)
    assert all(t.isfinite() for t in terms.values())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"grid": MaskGrid(48, 24, 8)}, ValueError, "subvolume_size must be a multiple of BasicUNet's total stride 16"),
        ({"grid": MaskGrid(16, 16, 8)}, ValueError, "partial region must hold more than one voxel"),
        ({"mask_fill": "mean"}, ValueError, "mask_fill must be one of .*, got 'mean'"),
        ({"output_activation": "tanh"}, ValueError, "output_activation must be one of .*, got 'tanh'"),
        ({"network": unet(dropout=0.0)}, ValueError, "network has no dropout"),
        (
            {"network": UNet(3, 1, 2, (4, 8), (2,))},
            TypeError,
            "network must be one of BasicUNet, DynUNet, SwinUNETR, got UNet",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_once(arguments: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        HybridMIM(**{"network": unet(), "grid": UNET_GRID, **arguments})


def test_swin_refuses_subvolumes_below_its_stride() -> None:
    with pytest.raises(ValueError, match="SwinUNETR's total stride 32"):
        HybridMIM(swin(), MaskGrid(96, 16, 8))


def test_crops_of_another_size_are_refused() -> None:
    model = HybridMIM(unet(), UNET_GRID)
    with pytest.raises(ValueError, match=r"crops must have the grid's size \(48, 48, 48\), got \(32, 48, 48\)"):
        model(torch.rand(1, 1, 32, 48, 48), sample_mask(UNET_GRID, 1), full_region(UNET_GRID))


def test_a_sigmoid_is_refused_for_images_that_it_cannot_reach() -> None:
    x, mask, region = torch.randn(1, 1, 48, 48, 48), sample_mask(UNET_GRID, 1), full_region(UNET_GRID)
    with pytest.raises(
        ValueError, match=r"output_activation sigmoid needs images in 0\.\.1, got -.*: scale them, or set id"
    ):
        HybridMIM(unet(), UNET_GRID)(x, mask, region)
    model = HybridMIM(unet(), UNET_GRID, output_activation="identity").eval()
    torch.nn.init.constant_(model.reconstruction_head.bias, -9)
    assert model(x, mask, region)["reconstruction"].min() < 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "subvolume", "tokens"),
    [((96, 96, 96), 32, (3, 3, 3)), ((96, 64, 32), 32, (3, 2, 1)), ((128, 64, 64), 64, (2, 1, 1))],
)
def test_swin_has_a_token_for_each_subvolume_of_other_crops_too(size: tuple, subvolume: int, tokens: tuple) -> None:
    grid = MaskGrid(size, subvolume, 16)
    model = HybridMIM(swin(depths=(1, 1, 1, 1)), grid)
    outputs = model(torch.rand(1, 1, *size), sample_mask(grid, 1), choose_region(grid, "random"))
    assert grid.subvolume_grid == tokens
    assert outputs["number"].shape == (1, grid.num_subvolumes, grid.num_patches + 1)
    outputs["number"].sum().backward()
