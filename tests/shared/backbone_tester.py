# SPDX-License-Identifier: Apache-2.0

"""Everything that a backbone promises, as tests that each known backbone must pass.

A new backbone is tested by a :class:`Sample` of it in ``tests/networks/test_backbones.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hybridmim_components.method import HybridMIM, MaskGrid
from hybridmim_components.method.losses import HybridMIMLoss
from hybridmim_components.method.masking import sample_mask
from hybridmim_components.method.partial_region import choose_region, full_region
from hybridmim_components.networks import backbone_of, has_dropout, restore_scale, scale_free_norms, set_execution
from hybridmim_components.networks.backbones import check_crop_size
from hybridmim_components.weights import load_pretrained, save_weights

CHANNELS, CLASSES = 2, 3


@dataclass(frozen=True)
class Sample:
    """A small network of a backbone.

    Attributes:
        build: makes it from ``in_channels``, ``out_channels`` and ``dropout``.
        grid: of crops that it takes.
        other_size: another size of images that it segments.
    """

    build: Callable[..., nn.Module]
    grid: MaskGrid
    other_size: tuple[int, int, int]

    def network(self, in_channels: int = CHANNELS, out_channels: int = CLASSES, dropout: float = 0.1) -> nn.Module:
        torch.manual_seed(0)
        return self.build(in_channels=in_channels, out_channels=out_channels, dropout=dropout)

    def model(self) -> HybridMIM:
        return HybridMIM(self.network(), self.grid, output_activation="identity", projection_size=24)

    def images(self, number: int = 2) -> Tensor:
        return torch.randn(number, CHANNELS, *self.grid.image_size)


class BackboneTester:
    """Tests of one backbone. A subclass has a fixture ``sample``."""

    def test_encoder_decoder_and_output_layer_are_the_network(self, sample: Sample) -> None:
        network, x = sample.network().eval(), sample.images(1)
        backbone = backbone_of(network)
        with torch.no_grad():
            features = backbone.encode(network, x)
            decoded = backbone.decode(network, features)
            logits = backbone.apply_output_layer(network, decoded)
            assert torch.equal(logits, network(x)) and logits.shape == (1, CLASSES, *sample.grid.image_size)
        assert backbone.channels(network) == (CHANNELS, features[-1].shape[1], decoded.shape[1])
        strides = tuple(n // f for n, f in zip(x.shape[2:], features[-1].shape[2:], strict=True))
        assert backbone.strides(network) == strides and backbone.total_stride(network) == max(strides)

    def test_stem_and_output_layer_are_what_channels_and_classes_change(self, sample: Sample) -> None:
        network = sample.network()
        backbone, state = backbone_of(network), network.state_dict()
        wider, finer = sample.network(in_channels=CHANNELS + 1), sample.network(out_channels=CLASSES + 1)
        stem = set(backbone.stem) & state.keys()
        for other, names in ((wider, stem), (finer, None)):
            changed = {name for name, tensor in other.state_dict().items() if tensor.shape != state[name].shape}
            assert changed and (changed == names if names else all(belongs(n, backbone.output_layer) for n in changed))
        assert all(state[name].shape[1] == CHANNELS for name in stem)

    def test_outputs_have_the_documented_shapes(self, sample: Sample) -> None:
        model, grid, x = sample.model(), sample.grid, sample.images()
        mask, region = sample_mask(grid, 2), choose_region(grid)
        outputs = model(x, mask, region)
        assert outputs["reconstruction"].shape == region.crop(x).shape
        assert outputs["number"].shape == (2, grid.num_subvolumes, grid.num_patches + 1)
        assert outputs["location"].shape == (2, grid.num_subvolumes, grid.num_patches)
        assert outputs["view1"].shape == outputs["view2"].shape == (2, 24)
        assert outputs["masked"].shape == x.shape and not outputs["masked"].requires_grad
        assert set(model.eval()(x, mask, region)) == {"masked", "reconstruction", "number", "location"}

    def test_every_trained_parameter_but_the_output_layer_gets_gradient(self, sample: Sample) -> None:
        model, x = sample.model(), sample.images()
        mask, region = sample_mask(sample.grid, 2), choose_region(sample.grid)
        HybridMIMLoss()(model(x, mask, region), x, mask, region)["loss"].backward()
        # biases in front of an instance norm have no effect, and small crops leave parts of attention's tables unused
        weights = {name: p.grad for name, p in model.named_parameters() if name.endswith(".weight")}
        idle = {name for name, gradient in weights.items() if gradient is None or not gradient.any()}
        assert idle and all(belongs(name, f"network.{model.backbone.output_layer}") for name in idle)

    def test_a_whole_region_gives_what_the_network_itself_computes(self, sample: Sample) -> None:
        model = sample.model().eval()
        backbone = model.backbone

        class OutputLayer(nn.Module):
            def forward(self, feature: Tensor) -> Tensor:
                return backbone.apply_output_layer(model.network, feature)

        setattr(model, "reconstruction_head", OutputLayer())  # noqa: B010, it is no convolution
        x, mask = sample.images(1), sample_mask(sample.grid, 1)
        with torch.no_grad():
            expected = model.network(model.apply_mask(x, mask))
            assert torch.equal(model(x, mask, full_region(sample.grid))["reconstruction"], expected)

    def test_names_stay_and_other_sizes_are_segmented(self, sample: Sample) -> None:
        network = sample.network()
        names = list(network.state_dict())
        model = HybridMIM(network, sample.grid)
        assert model.network is network and list(network.state_dict()) == names
        shape = network.eval()(torch.rand(1, CHANNELS, *sample.other_size)).shape
        assert shape == (1, CLASSES, *sample.other_size)

    def test_dropout_makes_two_views_of_the_bottleneck_in_training_alone(self, sample: Sample) -> None:
        network, plain, x = sample.network(), sample.network(dropout=0.0), sample.images(1)
        assert has_dropout(network) and not has_dropout(plain)
        assert list(network.state_dict()) == list(plain.state_dict())
        network.load_state_dict(plain.state_dict())
        set_execution(network, "cpu")
        with torch.no_grad():
            views = [backbone_of(network).encode(network, x)[-1] for _ in range(2)]
            assert not torch.equal(*views)
            assert torch.equal(network.eval()(x), plain.eval()(x))

    def test_crops_that_strides_do_not_divide_are_refused(self, sample: Sample) -> None:
        network = sample.network()
        strides = backbone_of(network).strides(network)
        check_crop_size(network, sample.grid.image_size)
        with pytest.raises(ValueError, match="bottleneck of more than one voxel"):
            check_crop_size(network, strides)
        if backbone_of(network).whole_strides:
            with pytest.raises(ValueError, match=f"multiple of {type(network).__name__}'s total stride"):
                check_crop_size(network, [strides[0] * 2, strides[1] * 2, strides[2] * 3 // 2])

    def test_checkpointed_blocks_give_the_same_gradients_dropout_included(self, sample: Sample) -> None:
        found = []
        for checkpointing in (False, True):
            network = set_execution(sample.network(), "cpu", activation_checkpointing=checkpointing)
            torch.manual_seed(1)
            network.train()(sample.images(1)).square().mean().backward()
            assert list(network.state_dict()) == list(sample.network().state_dict())
            found.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
            wrapped = [m.forward for m in network.modules() if isinstance(m.forward, partial)]
            assert bool(wrapped) is checkpointing
            assert not any(isinstance(forward.args[1], partial) for forward in wrapped), "a block is wrapped once"
        plain, checkpointed = found
        assert plain.keys() == checkpointed.keys()
        assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)

    def test_weights_move_to_other_channels_and_classes(self, sample: Sample, tmp_path: Path) -> None:
        trained, other = sample.network(), sample.network(CHANNELS + 1, CLASSES + 2)
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter.add_(1)
        save_weights(tmp_path / "model.pt", trained, {})
        report = load_pretrained(other, tmp_path / "model.pt", restore_scale=False)
        backbone, state = backbone_of(other), other.state_dict()
        assert report.share == 1 and not report.missing and not report.mismatched
        assert set(report.adapted) == set(backbone.stem) & state.keys()
        assert all(belongs(name, backbone.output_layer) for name in report.skipped)
        assert all(torch.equal(state[name], trained.state_dict()[name]) for name in report.loaded)
        norms = scale_free_norms(again := sample.network(CHANNELS + 1, CLASSES + 2))
        assert set(load_pretrained(again, tmp_path / "model.pt").rescaled) == set(norms)
        assert all(torch.isclose(again.get_parameter(n).norm(), norm, rtol=1e-3) for n, norm in norms.items())

    def test_restoring_the_scale_keeps_the_output(self, sample: Sample) -> None:
        network, x = sample.network().double().eval(), 100 * sample.images(1).double()
        norms = scale_free_norms(network)
        assert sum(network.get_parameter(n).numel() for n in norms) > 0.2 * sum(p.numel() for p in network.parameters())
        with torch.no_grad():
            before = network(x)
            for name in norms:
                network.get_parameter(name).mul_(4)
            assert restore_scale(network, norms) == list(norms)
            assert all(torch.isclose(network.get_parameter(n).norm(), norm.double()) for n, norm in norms.items())
            torch.testing.assert_close(network(x), before, atol=1e-3 * float(before.std()), rtol=0)


def belongs(name: str, layer: str) -> bool:
    return name.startswith(f"{layer}.")
