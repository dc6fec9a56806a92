# SPDX-License-Identifier: Apache-2.0

"""Weights of nnU-Net's PlainConvUNet give the same logits in MONAI's DynUNet, and other weights are refused."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from torch import Tensor
from torch.nn.functional import conv3d, conv_transpose3d, instance_norm, leaky_relu

from hybridmim_components.__main__ import main
from hybridmim_components.nnunet import convert_to_dynunet
from hybridmim_components.weights import load_pretrained, read_weights

ROOT = Path(__file__).parents[2]
FEATURES = [4, 6, 8, 10]
FLAT = [(2, 2, 2), (1, 2, 2), (2, 2, 2)]
CUBES = [(2, 2, 2)] * 3
Weights = dict[str, Tensor]
Kernels = list[tuple[int, ...]]
CUBIC: Kernels = [(3, 3, 3)] * 4
THIN: Kernels = [(1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)]  # nnU-Net's for thick slices


def plain_weights(strides: list[tuple[int, ...]], kernels: Kernels = CUBIC) -> Weights:
    """Random weights with the names and shapes of a PlainConvUNet of three classes, aliases included."""
    torch.manual_seed(0)
    weights: Weights = {}

    def add_block(name: str, incoming: int, outgoing: int, kernel: tuple[int, ...]) -> None:
        for k, channels in enumerate((incoming, outgoing)):
            place = f"{name}.convs.{k}"
            weights[f"{place}.conv.weight"] = torch.randn(outgoing, channels, *kernel)
            for kind in ("conv.bias", "norm.weight", "norm.bias"):
                weights[f"{place}.{kind}"] = torch.randn(outgoing)
            weights[f"{place}.all_modules.0.weight"] = weights[f"{place}.conv.weight"]

    for level, (incoming, outgoing) in enumerate(pairwise([1, *FEATURES])):
        add_block(f"encoder.stages.{level}.0", incoming, outgoing, kernels[level])
    weights |= {f"decoder.{name}": tensor for name, tensor in weights.items()}
    for level, (incoming, outgoing) in enumerate(pairwise(FEATURES[::-1])):
        weights[f"decoder.transpconvs.{level}.weight"] = torch.randn(incoming, outgoing, *strides[::-1][level])
        weights[f"decoder.transpconvs.{level}.bias"] = torch.randn(outgoing)
        add_block(f"decoder.stages.{level}", 2 * outgoing, outgoing, kernels[-2 - level])
        weights[f"decoder.seg_layers.{level}.weight"] = torch.randn(3, outgoing, 1, 1, 1)
        weights[f"decoder.seg_layers.{level}.bias"] = torch.randn(3)
    return weights


def logits_of(weights: Weights, strides: list[tuple[int, ...]], x: Tensor) -> Tensor:
    """What nnU-Net's network computes, written out."""

    def block(name: str, x: Tensor, stride: tuple[int, ...] = (1, 1, 1)) -> Tensor:
        for k in (0, 1):
            conv, norm = (f"{name}.convs.{k}.{kind}" for kind in ("conv", "norm"))
            weight = weights[f"{conv}.weight"]
            padding = [size // 2 for size in weight.shape[2:]]
            x = conv3d(x, weight, weights[f"{conv}.bias"], stride if k == 0 else 1, padding)
            x = leaky_relu(instance_norm(x, weight=weights[f"{norm}.weight"], bias=weights[f"{norm}.bias"]), 0.01)
        return x

    skips = []
    for level, stride in enumerate([(1, 1, 1), *strides]):
        x = block(f"encoder.stages.{level}.0", x, stride)
        skips.append(x)
    for level, stride in enumerate(strides[::-1]):
        up = f"decoder.transpconvs.{level}"
        x = conv_transpose3d(x, weights[f"{up}.weight"], weights[f"{up}.bias"], stride)
        x = block(f"decoder.stages.{level}", torch.cat((x, skips[-2 - level]), 1))
    last = f"decoder.seg_layers.{len(strides) - 1}"
    return conv3d(x, weights[f"{last}.weight"], weights[f"{last}.bias"])


def save(path: Path, weights: Weights, forward: list[int] | None = None, nonlin: str = "torch.nn.LeakyReLU") -> Path:
    """A checkpoint as nnU-Net writes it, with numbers of numpy in its log."""
    full = {"spacing": [3.0, 1.0, 2.0], "patch_size": [16, 48, 32], "architecture": {"arch_kwargs": {"nonlin": nonlin}}}
    small = {"inherits_from": "3d_fullres", "batch_size": 4}
    plans = {"transpose_forward": forward, "configurations": {"3d_fullres": full, "3d_small": small}}
    content: dict[str, Any] = {"network_weights": weights, "logging": {"ema": [np.float32(0.5), np.float64(0.1)]}}
    content |= {"_best_ema": np.float32(0.5)}
    content |= {"init_args": {"plans": plans, "configuration": "3d_small"}} if forward else {}
    torch.save(content, path)
    return path


def dynunet(path: Path, settings: dict[str, Any]) -> Any:
    """The network of a bundle with these settings and all weights of the file."""
    parser = ConfigParser()
    parser.read_config(ROOT / "bundles" / "hybridmim_msd_spleen_dynunet_segmentation" / "configs" / "train.json")
    parser.update({f"network_def#{name}": value for name, value in settings.items()})
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(read_weights(path)[0])
    return network


@pytest.mark.parametrize(("strides", "kernels"), [(CUBES, CUBIC), (FLAT, CUBIC), (FLAT, THIN)])
@pytest.mark.parametrize(("forward", "order"), [([0, 1, 2], (2, 1, 0)), ([1, 0, 2], (2, 0, 1)), ([2, 0, 1], (0, 2, 1))])
def test_logits_are_those_of_nnunet_on_the_bundles_axes(
    tmp_path: Path, strides: list[tuple[int, ...]], kernels: Kernels, forward: list[int], order: tuple[int, ...]
) -> None:
    """``order`` has the network's axis that is x, y, and z of the image."""
    weights = plain_weights(strides, kernels)
    settings = convert_to_dynunet(save(tmp_path / "checkpoint_final.pth", weights, forward), tmp_path / "new.pt")
    x = torch.randn(1, 1, 16, 32, 24)
    expected = logits_of(weights, strides, x)
    axes = (0, 1, *(2 + axis for axis in order))
    with torch.no_grad():
        logits = dynunet(tmp_path / "new.pt", settings)(x.permute(axes))
    torch.testing.assert_close(logits, expected.permute(axes), atol=1e-4 * float(expected.std()), rtol=0)
    recipe = read_weights(tmp_path / "new.pt")[1]
    assert recipe["spacing"] == [[3.0, 1.0, 2.0][axis] for axis in order]
    assert recipe["roi_size"] == [[16, 48, 32][axis] for axis in order]


def test_the_command_prints_what_starts_a_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save(tmp_path / "checkpoint_final.pth", plain_weights(FLAT), [0, 1, 2])
    arguments = [str(checkpoint), str(tmp_path / "new weights.pt")]
    monkeypatch.setattr(sys, "argv", ["hybridmim_components", "from_nnunet", *arguments])
    main()
    words = shlex.split(capsys.readouterr().out)
    typed = dict(zip(words[::2], words[1::2], strict=True))
    assert typed.pop("--pretrained") == arguments[1]
    parser = ConfigParser()
    parser.read_config(ROOT / "bundles" / "hybridmim_msd_hippocampus_dynunet_segmentation" / "configs" / "train.json")
    parser.update({name.removeprefix("--"): json.loads(value) for name, value in typed.items()})
    report = load_pretrained(parser.get_parsed_content("network_def"), arguments[1], recipe={"spacing": [1, 1, 1]})
    assert report.share == 1 and report.rescaled
    assert report.differences == ["spacing was [2.0, 1.0, 3.0], is [1, 1, 1]"]


def without(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: tensor for key, tensor in weights.items() if name not in key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: {f"encoder.stem.{name}": t for name, t in w.items()},
            "must be of a 3D PlainConvUNet, got encoder.stem",
        ),
        (lambda w: {n: t[..., 0] if t.ndim == 5 else t for n, t in w.items()}, "must be of a 3D PlainConvUNet, got"),
        (without("stages.1.0.convs.1."), "two convolutions a stage, .* downsamples.0.conv2.conv.weight is missing"),
        (without("transpconvs.0.weight"), "decoder.transpconvs.0.weight"),
        (
            lambda w: w | {"encoder.stages.1.0.convs.2.conv.weight": torch.zeros(6, 6, 3, 3, 3)},
            "convs.2.conv.weight has no place",
        ),
        (lambda w: plain_weights(CUBES, kernels=[(5, 5, 5), *CUBIC[1:]]), "conv_block.* has the shape .* instead of"),
        (lambda w: w | {"decoder.transpconvs.0.bias": torch.tensor([float("nan")] * 8)}, "dense and finite"),
    ],
)
def test_weights_of_other_networks_are_refused_by_file_and_name(
    tmp_path: Path, change: Callable[[Weights], Weights], message: str
) -> None:
    checkpoint = save(tmp_path / "checkpoint_final.pth", change(plain_weights(CUBES)), [0, 1, 2])
    with pytest.raises(ValueError, match=message) as error:
        convert_to_dynunet(checkpoint, tmp_path / "new.pt")
    assert str(checkpoint) in str(error.value) and not (tmp_path / "new.pt").exists()


def test_what_pretraining_has_seen_is_kept(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "checkpoint_pretrained.pth", plain_weights(CUBES), [0, 1, 2])
    content = torch.load(checkpoint, weights_only=False)
    torch.save({**content, "recipe": {"volumes": ["ab"], "network": "PlainConvUNet"}}, checkpoint)
    convert_to_dynunet(checkpoint, tmp_path / "new.pt")
    recipe = read_weights(tmp_path / "new.pt")[1]
    assert (recipe["volumes"], recipe["network"]) == (["ab"], "DynUNet")


def test_without_plans_or_with_another_activation_nothing_is_guessed(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "checkpoint.pth", plain_weights(CUBES))
    with pytest.raises(ValueError, match=r"must have nnU-Net's plans, .* got none in .*checkpoint\.pth"):
        convert_to_dynunet(checkpoint, tmp_path / "new.pt")
    circle = {"small": {"inherits_from": "large"}, "large": {"inherits_from": "small"}}
    for change in ({"configurations": circle}, {"configurations": {"small": None}}, {"transpose_forward": [0, 0, 1]}):
        content = torch.load(save(checkpoint, plain_weights(CUBES), [0, 1, 2]), weights_only=False)
        content["init_args"] = {"plans": content["init_args"]["plans"] | change, "configuration": "small"}
        torch.save(content, checkpoint)
        with pytest.raises(ValueError, match=r"must have nnU-Net's plans, .* got none in .*checkpoint\.pth"):
            convert_to_dynunet(checkpoint, tmp_path / "new.pt")
    checkpoint = save(tmp_path / "checkpoint.pth", plain_weights(CUBES), [0, 1, 2], "torch.nn.ReLU")
    with pytest.raises(ValueError, match=r"with LeakyReLU, got torch\.nn\.ReLU in .*checkpoint\.pth"):
        convert_to_dynunet(checkpoint, tmp_path / "new.pt")


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of nnU-Net at .*none\.pth"):
        convert_to_dynunet(tmp_path / "none.pth", tmp_path / "new.pt")
    torch.save({"state_dict": {}}, tmp_path / "ours.pt")
    with pytest.raises(ValueError, match=r"must have network_weights, there are none in .*ours\.pt"):
        convert_to_dynunet(tmp_path / "ours.pt", tmp_path / "new.pt")
    torch.save({"network_weights": {}, "code": Path("x")}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match=r"tensors and plain data only, cannot read .*code\.pth"):
        convert_to_dynunet(tmp_path / "code.pth", tmp_path / "new.pt")


@pytest.mark.skipif(not importlib.util.find_spec("nnunetv2"), reason="needs nnunetv2, see conftest.py")
def test_the_real_network_of_nnunet_gives_the_same_logits(build: Callable, tmp_path: Path) -> None:
    network = build("default", num_classes=3).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    path = save(tmp_path / "checkpoint_final.pth", network.state_dict(), [0, 1, 2])
    x = torch.randn(1, 1, 16, 32, 24)
    with torch.no_grad():
        expected = network(x)
        found = dynunet(tmp_path / "new.pt", convert_to_dynunet(path, tmp_path / "new.pt"))(x.permute(0, 1, 4, 3, 2))
    torch.testing.assert_close(found.permute(0, 1, 4, 3, 2), expected, atol=1e-4 * float(expected.std()), rtol=0)
