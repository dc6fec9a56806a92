# SPDX-License-Identifier: Apache-2.0

"""nnU-Net's networks divide into encoder and decoder without a change to what they compute or to any name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from backbone_tester import BackboneTester, Sample

from hybridmim_components.method import HybridMIM
from hybridmim_components.method.masking import MaskGrid
from hybridmim_components.networks import backbone_of, scale_free_norms
from hybridmim_components.networks.backbones import check_crop_size

GRIDS = {
    "plain": MaskGrid((32, 48, 32), 16, 8),
    "residual": MaskGrid((32, 48, 32), 16, 8),
    "flat": MaskGrid((8, 48, 32), (4, 16, 16), (2, 8, 8)),
}


class TestBackbones(BackboneTester):
    @pytest.fixture
    def sample(self, build: Callable, kind: str) -> Sample:
        def of_plan(in_channels: int, out_channels: int, dropout: float) -> Any:
            return build(kind, in_channels=in_channels, num_classes=out_channels, dropout=dropout)

        return Sample(of_plan, GRIDS[kind], (16, 32, 24))


def test_every_name_of_the_stem_and_of_the_output_layers_is_known(build: Callable, kind: str) -> None:
    network = build(kind, in_channels=2)
    backbone, state = backbone_of(network), network.state_dict()
    first = next(network.encoder.parameters())
    aliases = [n for n, tensor in state.items() if tensor.data_ptr() == first.data_ptr()]
    assert set(backbone.stem) == set(aliases) and len(aliases) == 4
    of_task = {name for name in state if name.startswith(f"{backbone.output_layer}.")}
    assert of_task == {name for name in state if "seg_layers" in name} and len(of_task) == 6


def test_every_convolution_before_a_norm_is_scale_free(build: Callable, kind: str) -> None:
    network = build(kind)
    convolutions = {id(m.conv.weight) for m in network.modules() if hasattr(m, "all_modules")}
    assert {id(network.get_parameter(name)) for name in scale_free_norms(network)} == convolutions


def test_grids_and_crops_that_strides_do_not_divide_are_refused_axis_by_axis(build: Callable) -> None:
    network = build("flat", dropout=0.1)
    with pytest.raises(ValueError, match=r"total stride \(2, 8, 8\) on every axis, got \(4, 4, 8\)"):
        HybridMIM(network, MaskGrid((8, 48, 32), (4, 4, 8), (2, 4, 8)))
    check_crop_size(network, (2, 16, 8))
    with pytest.raises(ValueError, match=r"multiple of ResidualEncoderUNet's total stride \(2, 8, 8\), got"):
        check_crop_size(network, (8, 8, 4))
    with pytest.raises(ValueError, match="bottleneck of more than one voxel"):
        check_crop_size(network, (2, 8, 8))
