# SPDX-License-Identifier: Apache-2.0

"""Checks of weights from untrusted files. ``weights_only`` loading runs no code, but trusts any size they claim."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "FINGERPRINTS",
    "SEEN",
    "require_fitting_state",
    "require_plain_recipe",
    "require_state_dict",
    "require_uncompressed",
]

#: Keys of a recipe that list the volumes that its weights have seen.
SEEN = ("volumes", "pretraining_volumes", "training_volumes")
#: The same keys, and the key for the volumes that chose the best epoch.
FINGERPRINTS = (*SEEN, "validation_volumes")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_OTHERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def require_uncompressed(path: str | Path) -> None:
    """Refuse a small file that could unpack to more than fits into memory. ``torch.save`` never writes such a file.

    Raises:
        ValueError: when the parts of a zip file claim more bytes than the file has.
        zipfile.BadZipFile: when the parts cannot be listed.

    Example:
        >>> torch.save({"weight": torch.zeros(1000)}, "model.pt")
        >>> require_uncompressed("model.pt")
        >>> with zipfile.ZipFile("packed.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        ...     archive.writestr("weight", bytes(1_000_000))
        >>> require_uncompressed("packed.pt")
        Traceback (most recent call last):
        ValueError: its parts must be stored uncompressed, got 1000000 bytes of them in a smaller file
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        claimed = sum(member.file_size for member in archive.infolist())
    if claimed > Path(path).stat().st_size:
        raise ValueError(f"its parts must be stored uncompressed, got {claimed} bytes of them in a smaller file")


def require_state_dict(state: Any, path: str | Path) -> None:
    """Refuse anything but a dictionary of names and dense, finite tensors.

    Raises:
        ValueError: when it is anything else; names the file and the first tensor that is wrong.

    Example:
        >>> require_state_dict({"weight": torch.ones(2, 2)}, "model.pt")
        >>> require_state_dict({"weight": torch.ones(1).expand(9, 9)}, "model.pt")  # one value for 81 elements
        Traceback (most recent call last):
        ValueError: weights must be dense and finite numbers, got the shape (9, 9) without a value for each element in
        'weight' of model.pt
    """
    if not isinstance(state, dict) or not state:
        raise ValueError(f"weights must be a state dict of tensors, got something else in {path}")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            got = f"{type(tensor).__name__} by the name {name!r:.80}"
            raise ValueError(f"weights must be a state dict of tensors, got {got} in {path}")
        fault = _fault_of(tensor)
        if fault:
            raise ValueError(f"weights must be dense and finite numbers, got {fault} in {name!r:.80} of {path}")


def _fault_of(tensor: Tensor) -> str:
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        return f"{tensor.layout} on {tensor.device}"
    if tensor.dtype not in (*_FLOATS, *_OTHERS):
        return str(tensor.dtype)
    # strides of 0 make a tensor of any size out of one value
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"the shape {tuple(tensor.shape)} without a value for each element"
    if tensor.dtype in _FLOATS and not bool(tensor.isfinite().all()):
        return "NaN or infinity"
    return ""


def require_fitting_state(network: nn.Module, state: Mapping[str, Tensor], path: str | Path, trained: str = "") -> None:
    """Refuse weights of another network, or of the same one with other features.

    Args:
        network: the network that the weights are for.
        state: the weights.
        path: file of the weights, for the message.
        trained: name of the network that the weights were trained in, if it is known.

    Raises:
        ValueError: when tensors do not fit; names the file and the first of them.

    Example:
        >>> require_fitting_state(nn.Linear(2, 1), nn.Linear(2, 1).state_dict(), "model.pt")
        >>> require_fitting_state(nn.Linear(2, 1), nn.Linear(3, 1).state_dict(), "model.pt")
        Traceback (most recent call last):
        ValueError: weights must fit network_def (Linear), those of model.pt do not: weight has the shape (1, 3)
        instead of (1, 2); set network_def as in training
    """
    target, name = network.state_dict(), type(network).__name__
    shapes = [n for n in target if n in state and state[n].shape != target[n].shape]
    faults = [f"{n} has the shape {tuple(state[n].shape)} instead of {tuple(target[n].shape)}" for n in shapes]
    faults += [f"{n} is missing" for n in target if n not in state]
    faults += [f"{n} is not in the network" for n in state if n not in target]
    if faults:
        source = f"are of {trained}" if trained not in ("", name) else "do not"
        more = f"; and {len(faults) - 2} more" if len(faults) > 2 else ""
        raise ValueError(
            f"weights must fit network_def ({name}), those of {path} {source}: {'; '.join(faults[:2])}{more}; "
            "set network_def as in training"
        )


def require_plain_recipe(recipe: Any, source: str | Path) -> None:
    """Refuse a recipe that is not plain data, or whose fingerprints are not lists of strings.

    Raises:
        ValueError: when the recipe is refused; names the file.

    Example:
        >>> require_plain_recipe({"spacing": [1, 1, 1], "training_volumes": ["1f0c"]}, "model.json")
        >>> require_plain_recipe({"training_volumes": "all"}, "model.json")
        Traceback (most recent call last):
        ValueError: the recipe's training_volumes must be a list of fingerprints, got something else in model.json
    """
    try:
        plain = isinstance(recipe, dict) and isinstance(json.loads(json.dumps(recipe, allow_nan=False)), dict)
    except (TypeError, ValueError, RecursionError):
        plain = False
    if not plain:
        raise ValueError(f"the recipe of the weights must be plain data by name, got something else in {source}")
    for key in FINGERPRINTS:
        digests = recipe.get(key, [])
        if not isinstance(digests, list) or not all(isinstance(digest, str) for digest in digests):
            raise ValueError(f"the recipe's {key} must be a list of fingerprints, got something else in {source}")
