# Copyright 2026 HybridMIM bundles contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""nnU-Net's networks divide into encoder and decoder without a change to what they compute or to any name."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
import torch

from hybridmim_components.method import HybridMIM
from hybridmim_components.method.losses import HybridMIMLoss
from hybridmim_components.method.masking import MaskGrid, sample_mask
from hybridmim_components.method.partial_region import choose_region, full_region
from hybridmim_components.networks import backbone_of, has_dropout, restore_scale, scale_free_norms, set_execution
from hybridmim_components.networks.backbones import check_crop_size
from hybridmim_components.weights import load_pretrained, save_weights

STRIDES = {"plain": (8, 8, 8), "residual": (8, 8, 8), "flat": (2, 8, 8)}
GRIDS = {name: MaskGrid((32, 48, 32), 16, 8) for name in ("plain", "residual")}
GRIDS["flat"] = MaskGrid((8, 48, 32), (4, 16, 16), (2, 8, 8))


def test_encoder_decoder_and_output_layer_are_the_network(build: Callable, kind: str) -> None:
    network = build(kind, in_channels=2, num_classes=3).eval()
    backbone, x = backbone_of(network), torch.rand(1, 2, 16, 32, 24)
    with torch.no_grad():
        features = backbone.encode(network, x)
        decoded = backbone.decode(network, features)
        assert torch.equal(backbone.apply_output_layer(network, decoded), network(x))
    assert backbone.channels(network) == (2, features[-1].shape[1], decoded.shape[1])
    strides = tuple(n // f for n, f in zip(x.shape[2:], features[-1].shape[2:], strict=True))
    assert backbone.strides(network) == strides == STRIDES[kind] and backbone.total_stride(network) == max(strides)


def test_every_name_of_the_stem_and_of_the_output_layers_is_known(build: Callable, kind: str) -> None:
    network = build(kind, in_channels=2)
    backbone, state = backbone_of(network), network.state_dict()
    first = next(network.encoder.parameters())
    aliases = [n for n, tensor in state.items() if tensor.data_ptr() == first.data_ptr()]
    assert set(backbone.stem) == set(aliases) and len(aliases) == 4
    of_task = {name for name in state if name.startswith(f"{backbone.output_layer}.")}
    assert of_task == {name for name in state if "seg_layers" in name} and len(of_task) == 6


def test_dropout_changes_training_alone_and_no_name(build: Callable, kind: str) -> None:
    network, plain = build(kind, dropout=0.2), build(kind)
    assert has_dropout(network) and not has_dropout(plain)
    assert list(network.state_dict()) == list(plain.state_dict())
    network.load_state_dict(plain.state_dict())
    x, backbone = torch.rand(1, 1, 16, 32, 24), backbone_of(network)
    set_execution(network, "cpu")
    assert not torch.equal(*(backbone.encode(network, x)[-1] for _ in range(2)))
    assert torch.equal(*(n.eval()(x) for n in (network, plain)))


def test_every_trained_parameter_but_the_output_layers_gets_gradient(build: Callable, kind: str) -> None:
    grid = GRIDS[kind]
    model = HybridMIM(build(kind, dropout=0.1), grid, output_activation="identity")
    x, mask = torch.randn(2, 1, *grid.image_size), sample_mask(grid, 2)
    region = choose_region(grid)
    outputs = model(x, mask, region)
    assert outputs["reconstruction"].shape == region.crop(x).shape
    assert outputs["location"].shape == (2, grid.num_subvolumes, grid.num_patches)
    HybridMIMLoss()(outputs, x, mask, region)["loss"].backward()
    # biases in front of an instance norm have no effect
    idle = {n for n, p in model.named_parameters() if n.endswith(".weight") and (p.grad is None or not p.grad.any())}
    assert idle and all(".seg_layers." in name for name in idle)


def test_grids_and_crops_that_strides_do_not_divide_are_refused_axis_by_axis(build: Callable) -> None:
    network = build("flat", dropout=0.1)
    with pytest.raises(ValueError, match=r"total stride \(2, 8, 8\) on every axis, got \(4, 4, 8\)"):
        HybridMIM(network, MaskGrid((8, 48, 32), (4, 4, 8), (2, 4, 8)))
    check_crop_size(network, (2, 16, 8))
    with pytest.raises(ValueError, match=r"multiple of ResidualEncoderUNet's total stride \(2, 8, 8\), got"):
        check_crop_size(network, (8, 8, 4))
    with pytest.raises(ValueError, match="bottleneck of more than one voxel"):
        check_crop_size(network, (2, 8, 8))


def test_activation_checkpointing_wraps_each_block_once_and_keeps_the_gradients(build: Callable, kind: str) -> None:
    network = build(kind)
    other = set_execution(deepcopy(network), "cpu", activation_checkpointing=True)
    x = torch.rand(1, 1, 16, 32, 24)
    for one in (network, other):
        one(x).square().mean().backward()
    gradients = zip(network.parameters(), other.parameters(), strict=True)
    assert all(a.grad is b.grad or torch.allclose(a.grad, b.grad, atol=1e-6) for a, b in gradients)
    wrapped = [m.forward for m in other.modules() if isinstance(m.forward, partial)]
    assert wrapped and not any(isinstance(forward.args[1], partial) for forward in wrapped)


def test_restoring_the_scale_keeps_the_output(build: Callable, kind: str) -> None:
    network, new = build(kind).eval(), build(kind)
    x = torch.rand(1, 1, 16, 32, 24)
    with torch.no_grad():
        before = network(x)
        grown = [m.conv for m in network.modules() if hasattr(m, "all_modules")]
        for convolution in grown:
            convolution.weight.mul_(4)
    assert len(restore_scale(network, scale_free_norms(new))) == len(grown)
    fresh = [m.conv for m in new.modules() if hasattr(m, "all_modules")]
    for mine, theirs in zip(grown, fresh, strict=True):
        assert torch.isclose(mine.weight.norm(), theirs.weight.norm())
    torch.testing.assert_close(network(x), before, atol=1e-3, rtol=1e-3)


def test_weights_move_within_this_project_too(build: Callable, kind: str, tmp_path: Path) -> None:
    trained, other = build(kind, in_channels=1), build(kind, in_channels=2, num_classes=5)
    save_weights(tmp_path / "model.pt", trained, {})
    report = load_pretrained(other, tmp_path / "model.pt")
    assert report.share == 1 and not report.missing and not report.mismatched
    assert len(report.adapted) == 4 and all("seg_layers" in name for name in report.skipped)
    names = "decoder.transpconvs.0.weight", "decoder.stages.0.convs.0.conv.weight"
    for name, rescaled in zip(names, (False, True), strict=True):
        mine, theirs = other.get_parameter(name), trained.get_parameter(name)
        assert torch.equal(mine, theirs) is not rescaled
        assert torch.allclose(mine / mine.norm(), theirs / theirs.norm())


def test_a_whole_region_gives_what_the_network_itself_computes(build: Callable, kind: str) -> None:
    model = HybridMIM(build(kind, dropout=0.1), GRIDS[kind], output_activation="identity").eval()
    grid = GRIDS[kind]
    x, mask = torch.randn(1, 1, *grid.image_size), sample_mask(grid, 1)
    with torch.no_grad():
        model.reconstruction_head = model.network.decoder.seg_layers[-1]
        expected = model.network(model.apply_mask(x, mask))
        assert torch.equal(model(x, mask, full_region(grid))["reconstruction"], expected)
