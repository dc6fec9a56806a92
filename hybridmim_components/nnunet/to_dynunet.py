# SPDX-License-Identifier: Apache-2.0

"""Convert weights of nnU-Net's PlainConvUNet for MONAI's DynUNet, so that they start a bundle. nnU-Net is not needed.

With two convolutions per stage, both networks compute the same. Three things differ besides the names. nnU-Net's
convolutions have a bias, which instance normalisation removes. nnU-Net's axes are z, y, x. nnU-Net's decoder has the
kernels of the finer level, DynUNet's those of the coarser one: a smaller kernel is padded with zeros.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.nets import DynUNet
from torch import Tensor

from hybridmim_components.weights import save_weights
from hybridmim_components.weights.check import FINGERPRINTS, require_plain_recipe, require_state_dict
from hybridmim_components.weights.saving import read_plain

__all__ = ["convert_to_dynunet"]

_CONVOLUTIONS = r"convs\.([01])\.(conv|norm)\.(weight|bias)"
_ENCODER = re.compile(rf"encoder\.stages\.(\d+)\.0\.{_CONVOLUTIONS}")
_DECODER = re.compile(rf"decoder\.stages\.(\d+)\.{_CONVOLUTIONS}")
_UPSAMPLING = re.compile(r"decoder\.transpconvs\.(\d+)\.(weight|bias)")
_OUTPUT = re.compile(r"decoder\.seg_layers\.(\d+)\.(weight|bias)")
_ALIAS = re.compile(r"decoder\.encoder\.|.*\.all_modules\.")
# what makes the numbers in nnU-Net's log of the training, which its checkpoints hold beside the weights
_NUMBER: Any = np.float64(0).__reduce__()[0]
_NUMBERS: list[Any] = [
    *((_NUMBER, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # numpy 1 and 2
    *(np.dtype, np.dtypes.Float32DType, np.dtypes.Float64DType),
]


def convert_to_dynunet(checkpoint: str | Path, output: str | Path) -> dict[str, Any]:
    """Write weights of nnU-Net as weights of :class:`monai.networks.nets.DynUNet`, for ``pretrained`` of a bundle.

    The axes become x, y, z, as in the bundles. The recipe has spacing and patch size of nnU-Net's plans, so that a
    bundle can tell where its own differ, and the fingerprints of a recipe of this package.

    Args:
        checkpoint: file with ``network_weights`` of a 3D ``PlainConvUNet``, such as ``checkpoint_final.pth`` of
            nnU-Net's default plans or ``checkpoint_pretrained.pth`` of this package.
        output: target file.

    Returns:
        Settings of ``network_def`` in the bundle, by name.

    Raises:
        FileNotFoundError: when there is no such checkpoint.
        ValueError: when the file cannot be read, has no plans, or is of another network; names the file and what
            differs.
    """
    content = _read(Path(checkpoint))
    plan = _plan(content, checkpoint)
    # transpose_forward has the network's axes among z, y, x
    axes = [plan["transpose_forward"].index(2 - axis) for axis in range(3)]
    named = {name: tensor for name, tensor in content["network_weights"].items() if not _ALIAS.match(name)}
    if not any(_ENCODER.fullmatch(name) for name in named) or any(
        tensor.ndim not in (1, 5) for tensor in named.values()
    ):
        raise ValueError(
            f"weights must be of a 3D PlainConvUNet, got {', '.join(list(named)[:2])}, ... in {checkpoint}"
        )
    named = {
        name: tensor.permute(0, 1, *(2 + axis for axis in axes)) if tensor.ndim == 5 else tensor
        for name, tensor in named.items()
    }
    try:
        settings = _settings(named)
        network = DynUNet(3, norm_name=("INSTANCE", {"affine": True}), trans_bias=True, **settings)
        _fill(network, named)
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            "weights must be of a PlainConvUNet with two convolutions a stage, "
            f"got others in {checkpoint}: {error.args[0]}"
        ) from error
    recipe = {key: value for key, value in content.get("recipe", {}).items() if key in FINGERPRINTS}
    # nnU-Net does not record the cases that it has trained on
    recipe |= {"unknown_volumes": True, "network": "DynUNet", "method": "nnU-Net", "source": Path(checkpoint).name}
    recipe |= {
        ours: [plan[theirs][axis] for axis in axes]
        for ours, theirs in (("spacing", "spacing"), ("roi_size", "patch_size"))
    }
    save_weights(output, network, recipe)
    return settings


def _plan(content: Mapping[str, Any], checkpoint: str | Path) -> dict[str, Any]:
    """Return the configuration of a checkpoint's plans, with the order of the axes.

    Raises:
        ValueError: when there are no plans, or the network has another activation than DynUNet.
    """
    try:
        plans, name = content["init_args"]["plans"], content["init_args"]["configuration"]
        plan: dict[str, Any] = {"transpose_forward": list(plans["transpose_forward"])}
        configurations = dict(plans["configurations"])
        while name:
            own = configurations.pop(name)  # none twice: a circle ends with an error
            plan, name = {**own, **plan}, own.get("inherits_from")
        if sorted(plan["transpose_forward"]) != [0, 1, 2] or any(
            len(plan[key]) != 3 for key in ("spacing", "patch_size")
        ):
            raise KeyError("three axes")
        activation = plan.get("architecture", {}).get("arch_kwargs", {}).get("nonlin", "LeakyReLU")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"a checkpoint must have nnU-Net's plans, which tell the order of axes, got none in {checkpoint}: {error}"
        ) from error
    if not str(activation).endswith("LeakyReLU"):
        raise ValueError(f"weights must be of a network with LeakyReLU, got {activation} in {checkpoint}")
    return plan


def _settings(named: Mapping[str, Tensor]) -> dict[str, Any]:
    """Derive the arguments of a DynUNet from the sizes of the weights.

    Raises:
        KeyError: when one is missing.
    """
    levels = 1 + max(int(found[1]) for name in named if (found := _ENCODER.fullmatch(name)))
    firsts = [named[f"encoder.stages.{level}.0.convs.0.conv.weight"] for level in range(levels)]
    # the finest transposed convolution comes last; its kernel is its stride
    strides = [_size(named[f"decoder.transpconvs.{level}.weight"]) for level in reversed(range(levels - 1))]
    outputs = named.get(f"decoder.seg_layers.{levels - 2}.weight")
    return {
        "in_channels": firsts[0].shape[1],
        "out_channels": 2 if outputs is None else len(outputs),
        "kernel_size": [_size(weight) for weight in firsts],
        "strides": [1, *strides],
        "upsample_kernel_size": strides,
        "filters": [len(weight) for weight in firsts],
    }


def _size(weight: Tensor) -> int | list[int]:
    sizes: Sequence[int] = weight.shape[2:]
    return sizes[0] if len(set(sizes)) == 1 else list(sizes)


def _fill(network: Any, named: Mapping[str, Tensor]) -> None:
    """Copy weights into a DynUNet, each into its place.

    Raises:
        KeyError: when the network has no such weight, or one of its weights is missing.
        RuntimeError: when shapes differ.
    """
    blocks = ["input_block", *(f"downsamples.{k}" for k in range(len(network.downsamples))), "bottleneck"]
    last = len(network.upsamples) - 1
    renamed = {}
    for name, tensor in named.items():
        if found := _ENCODER.fullmatch(name):
            place, (number, layer, kind) = blocks[int(found[1])], found.groups()[1:]
        elif found := _DECODER.fullmatch(name):
            place, (number, layer, kind) = f"upsamples.{found[1]}.conv_block", found.groups()[1:]
        elif found := _UPSAMPLING.fullmatch(name):
            renamed[f"upsamples.{found[1]}.transp_conv.conv.{found[2]}"] = tensor
            continue
        elif found := _OUTPUT.fullmatch(name):
            if int(found[1]) == last:  # the others are of deep supervision
                renamed[f"output_block.conv.conv.{found[2]}"] = tensor
            continue
        else:
            raise KeyError(f"{name} has no place in a DynUNet")
        if (layer, kind) != ("conv", "bias"):
            renamed[f"{place}.{layer}{int(number) + 1}{'.conv' if layer == 'conv' else ''}.{kind}"] = tensor
    parameters = dict(network.named_parameters())
    missing = [name for name in parameters if name not in renamed and not name.startswith("output_block.")]
    if missing:
        raise KeyError(f"{missing[0]} is missing")
    with torch.no_grad():
        for name, tensor in renamed.items():
            if ".conv_block." in name and tensor.ndim == 5:
                tensor = _padded(tensor, parameters[name].shape[2:])  # noqa: PLW2901
            if parameters[name].shape != tensor.shape:
                shapes = f"{tuple(tensor.shape)} instead of {tuple(parameters[name].shape)}"
                raise RuntimeError(f"{name} has the shape {shapes}")
            parameters[name].copy_(tensor)


def _padded(kernel: Tensor, size: Sequence[int]) -> Tensor:
    """Embed a kernel into a larger one of zeros, which has the same response; as it is if that cannot be done."""
    missing = [new - old for new, old in zip(size, kernel.shape[2:], strict=True)]
    if any(n < 0 or n % 2 for n in missing):
        return kernel
    return torch.nn.functional.pad(kernel, [n // 2 for n in reversed(missing) for _ in (0, 1)])


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint of nnU-Net at {path}")
    content = read_plain(path, _NUMBERS)
    if not isinstance(content, dict) or "network_weights" not in content:
        raise ValueError(f"a checkpoint of nnU-Net must have network_weights, there are none in {path}")
    require_state_dict(content["network_weights"], path)
    require_plain_recipe(content.get("recipe", {}), path)
    return content
