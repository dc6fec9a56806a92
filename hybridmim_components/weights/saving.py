# SPDX-License-Identifier: Apache-2.0

"""Files of weights: saving them with their recipe, and reading them without running anything that they hold."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hybridmim_components import __version__
from hybridmim_components.system.files import read_json_object, save_tensors, write_text
from hybridmim_components.weights.check import (
    SEEN,
    require_fitting_state,
    require_plain_recipe,
    require_state_dict,
    require_uncompressed,
)

__all__ = [
    "checked_recipe",
    "find_weights",
    "has_unknown_volumes",
    "how_to_get_weights",
    "read_plain",
    "read_recipe",
    "read_weights",
    "save_weights",
    "seen_volumes",
]

logger = logging.getLogger(__name__)


def find_weights(path: str | Path, bundle_root: str | Path | None = None) -> Path:
    """Resolve a path against the working directory, then against the bundle.

    Raises:
        FileNotFoundError: when neither place has the file; names both.

    Example:
        >>> Path("bundle/models").mkdir(parents=True)
        >>> Path("bundle/models/model.pt").touch()
        >>> print(find_weights("models/model.pt", bundle_root="bundle"))
        bundle/models/model.pt
    """
    places = [Path(path)]
    if bundle_root is not None and not Path(path).is_absolute():
        places.append(Path(bundle_root) / path)
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"no weights at {' or '.join(str(p) for p in places)}: run configs/pretrain.json first")


def how_to_get_weights(bundle: str | Path) -> str:
    """Return how a bundle gets its fine-tuned ``models/model.pt``, as text for error messages.

    Example:
        >>> how_to_get_weights("bundle")
        'run bundle/configs/train.json first, which writes models/model.pt'
        >>> Path("bundle").mkdir()
        >>> Path("bundle/large_files.yml").touch()
        >>> how_to_get_weights("bundle")
        'python -m monai.bundle download_large_files --bundle_path bundle fetches them (it needs PyYAML)'
    """
    if (Path(bundle) / "large_files.yml").is_file():
        return f"python -m monai.bundle download_large_files --bundle_path {bundle} fetches them (it needs PyYAML)"
    return f"run {Path(bundle) / 'configs' / 'train.json'} first, which writes models/model.pt"


def checked_recipe(network: nn.Module, path: str | Path) -> dict[str, Any]:
    """Check that fine-tuned weights are there and fit their network, and return their recipe.

    If there is no recipe, it is empty and the log warns.

    Raises:
        FileNotFoundError: when there are no weights; says how to get them.
        ValueError: when the weights are unusable or do not fit.

    Example:
        >>> save_weights("model.pt", nn.Linear(2, 1), {"spacing": [1, 1, 1]}, bare=True)
        >>> checked_recipe(nn.Linear(2, 1), "model.pt")["spacing"]
        [1, 1, 1]
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"no weights at {path}: {how_to_get_weights(Path(path).parent.parent)}, or set ckpt_dir"
        )
    state, recipe = read_weights(path)
    require_fitting_state(network, state, path, str(recipe.get("network", "")))
    if not recipe:
        logger.warning("%s has no recipe beside it: its settings and what it has seen are unknown", path)
    return recipe


def save_weights(path: str | Path, network: nn.Module, recipe: Mapping[str, Any], bare: bool = False) -> None:
    """Save the weights of a stock network atomically, as CPU tensors and with their recipe.

    Args:
        path: target file.
        network: the stock network.
        recipe: plain data (numbers, strings, lists, dictionaries). The version of this package is added.
        bare: write the state dict alone, as MONAI Label expects of ``models/model.pt``, and the recipe as JSON beside
            it. Otherwise, both go into one file.

    Example:
        >>> save_weights("models/model.pt", nn.Linear(2, 1), {"spacing": [1, 1, 1]}, bare=True)
        >>> sorted(path.name for path in Path("models").iterdir())
        ['model.json', 'model.pt']
        >>> list(torch.load("models/model.pt"))
        ['weight', 'bias']
    """
    state = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
    # a round trip proves that the recipe is plain data, which weights_only loading accepts
    plain = json.loads(json.dumps({**recipe, "components_version": __version__}))
    if bare:
        # the recipe comes first, since weights without their recipe would pass the leak check
        write_text(Path(path).with_suffix(".json"), json.dumps(plain, indent=2) + "\n")
        save_tensors(path, state)
    else:
        save_tensors(path, {"state_dict": state, "recipe": plain})


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a state dict and its recipe onto the CPU. Nothing in the file is executed.

    Args:
        path: file of :func:`save_weights`, or a bare state dict of the same network.

    Returns:
        State dict and recipe. The recipe is empty if there is none.

    Raises:
        ValueError: when the file holds no state dict, holds anything but dense, finite tensors and plain containers, or
            claims to contain more bytes than it has.

    Example:
        >>> save_weights("model.pt", nn.Linear(2, 1), {"spacing": [1, 1, 1]})
        >>> state, recipe = read_weights("model.pt")
        >>> list(state), recipe["spacing"]
        (['weight', 'bias'], [1, 1, 1])
    """
    content = read_plain(path)
    if isinstance(content, dict) and "state_dict" in content:
        state, recipe = content["state_dict"], content.get("recipe", {})
    else:
        state, recipe = content, read_recipe(path)
    require_state_dict(state, path)
    require_plain_recipe(recipe, path)
    return state, recipe


def read_plain(path: str | Path, also: Sequence[Any] = ()) -> Any:
    """Read a file of ``torch.save`` with tensors and plain data onto the CPU. Nothing in the file is executed.

    Args:
        path: the file.
        also: further classes and functions that it may name, see :func:`torch.serialization.safe_globals`.

    Raises:
        ValueError: when the file holds anything else or cannot be read; names it.
    """
    try:
        require_uncompressed(path)
        with torch.serialization.safe_globals(list(also)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"weights must hold tensors and plain data only, cannot read {path}: {reason}") from error


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Read the recipe beside a bare state dict, which is empty if there is none.

    Raises:
        ValueError: when the file is not a JSON object, or its fingerprints are not lists of strings.

    Example:
        >>> save_weights("model.pt", nn.Linear(2, 1), {"spacing": [1, 1, 1]}, bare=True)
        >>> read_recipe("model.pt")["spacing"], read_recipe("other.pt")
        ([1, 1, 1], {})
    """
    file = Path(path).with_suffix(".json")
    if not file.is_file():
        return {}
    try:
        recipe = read_json_object(file)
    except ValueError as error:
        raise ValueError(f"the recipe of the weights must be a JSON object, cannot read {file}: {error}") from error
    require_plain_recipe(recipe, file)
    return recipe


def seen_volumes(recipe: Mapping[str, Any]) -> set[str]:
    """Return the fingerprints of every volume that weights have seen in pre-training or training.

    Example:
        >>> sorted(seen_volumes({"pretraining_volumes": ["a"], "training_volumes": ["b"], "spacing": [1, 1, 1]}))
        ['a', 'b']
    """
    return {v for key in SEEN for v in recipe.get(key, [])}


def has_unknown_volumes(recipe: Mapping[str, Any]) -> bool:
    """Return whether weights may have seen volumes that their recipe does not list.

    Weights without a recipe may have, and all weights that were trained on from such weights.

    Example:
        >>> has_unknown_volumes({"volumes": ["a"]}), has_unknown_volumes({})
        (False, True)
        >>> has_unknown_volumes({"volumes": ["a"], "unknown_volumes": True})
        True
    """
    return bool(recipe.get("unknown_volumes", not any(key in recipe for key in SEEN)))
