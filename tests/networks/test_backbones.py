# SPDX-License-Identifier: Apache-2.0

"""Each backbone of MONAI's networks keeps its promises; those of nnU-Net's are tested in tests/nnunet."""

from __future__ import annotations

from functools import partial

import pytest
from backbone_tester import BackboneTester, Sample
from monai.networks.nets import BasicUNet, DynUNet, SwinUNETR
from torch import nn

from hybridmim_components.method import MaskGrid
from hybridmim_components.networks import Backbone, backbone_of
from hybridmim_components.networks.backbones import check_crop_size


def unet(in_channels: int, out_channels: int, dropout: float) -> BasicUNet:
    return BasicUNet(3, in_channels, out_channels, (4, 4, 8, 8, 16, 4), dropout=dropout)


def dynunet(in_channels: int, out_channels: int, dropout: float, residual: bool = False) -> DynUNet:
    strides = [1, 2, (2, 2, 1), 2]
    filters = [4, 6, 8, 10]
    return DynUNet(
        3,
        in_channels,
        out_channels,
        [3] * 4,
        strides,
        strides[1:],
        filters,
        dropout,
        res_block=residual,
        trans_bias=True,
    )


def swin(in_channels: int, out_channels: int, dropout: float) -> SwinUNETR:
    return SwinUNETR(in_channels, out_channels, feature_size=12, depths=(1, 1, 1, 1), drop_rate=dropout)


#: A sample of each backbone that the package knows, by its network.
SAMPLES = {
    BasicUNet: Sample(unet, MaskGrid((32, 48, 32), 16, 8), (20, 36, 40)),
    DynUNet: Sample(dynunet, MaskGrid((32, 48, 16), (16, 16, 8), (8, 8, 4)), (24, 32, 20)),
    SwinUNETR: Sample(swin, MaskGrid((64, 32, 32), 32, 16), (32, 64, 32)),
}


class TestResidualDynUNet(BackboneTester):
    @pytest.fixture
    def sample(self) -> Sample:
        return Sample(partial(dynunet, residual=True), SAMPLES[DynUNet].grid, SAMPLES[DynUNet].other_size)


def test_deep_supervision_is_refused_before_the_first_crop() -> None:
    network = DynUNet(3, 1, 2, [3] * 4, [1, 2, 2, 2], [2] * 3, [4, 4, 4, 4], deep_supervision=True)
    with pytest.raises(ValueError, match="DynUNet must be built with deep_supervision False, got True"):
        check_crop_size(network, (32, 32, 32))


class TestBackbones(BackboneTester):
    @pytest.fixture(params=SAMPLES.values(), ids=[network.__name__ for network in SAMPLES])
    def sample(self, request: pytest.FixtureRequest) -> Sample:
        return request.param


def test_each_backbone_has_a_sample() -> None:
    modules = {backbone.network_class: type(backbone).__module__ for backbone in Backbone.known}
    ours = {n for n, module in modules.items() if module.startswith("hybridmim_components.") and "nnunet" not in module}
    assert ours == set(SAMPLES)


def test_a_description_of_a_subclass_goes_before_that_of_its_base(monkeypatch: pytest.MonkeyPatch) -> None:
    class Special(BasicUNet):
        pass

    monkeypatch.setattr(Backbone, "known", list(Backbone.known))
    base = backbone_of(unet(1, 2, 0.0))

    class SpecialBackbone(type(base)):
        network_class = Special

    assert type(backbone_of(Special(features=(4, 4, 4, 4, 4, 4)))) is SpecialBackbone
    assert type(backbone_of(unet(1, 2, 0.0))) is type(base)
    with pytest.raises(TypeError, match="Nameless must set network_class, output_layer, blocks, stem"):
        type("Nameless", (Backbone,), {})


def test_swin_drops_in_every_stage_of_its_encoder() -> None:
    dropouts = {n for n, m in swin(1, 2, 0.1).swinViT.named_modules() if isinstance(m, nn.Dropout) and m.p > 0}
    assert all(any(name.startswith(f"layers{stage}.") for name in dropouts) for stage in (1, 2, 3, 4))
