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

"""Saving of pre-trained weights with their recipe, and loading into a segmentation network with a full report."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hybridmim_components import __version__
from hybridmim_components.files import read_json_object, save_tensors, write_text
from hybridmim_components.networks import scale_free
from hybridmim_components.networks.backbones import backbone_of
from hybridmim_components.weights_check import SEEN, require_plain_recipe, require_state_dict, require_uncompressed

__all__ = [
    "LoadReport",
    "adapt_stem",
    "find_weights",
    "how_to_get_weights",
    "load_pretrained",
    "read_recipe",
    "read_weights",
    "recipe_differences",
    "save_weights",
    "seen_volumes",
]

logger = logging.getLogger(__name__)

_SHOWN = 5  # names of each kind; with another network, a hundred may be missing


@dataclass
class LoadReport:
    """Report of what :func:`load_pretrained` did, by tensor name."""

    path: str
    loaded: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    """Loaded after the number of input channels was changed."""
    rescaled: list[str] = field(default_factory=list)
    """Loaded and scaled back to the norm of new weights."""
    skipped: list[str] = field(default_factory=list)
    """Not loaded, since they belong to the output layer or are in the file only."""
    missing: list[str] = field(default_factory=list)
    """Not loaded, since they are in the network only."""
    mismatched: list[str] = field(default_factory=list)
    """Not loaded, since shape or type differs; listed with both."""
    share: float = 0.0
    """Share of the network's values outside the output layer that were loaded."""
    differences: list[str] = field(default_factory=list)
    """Each setting in which the recipe of pre-training differs from the target's."""
    recipe: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        counts = ", ".join(
            f"{len(getattr(self, kind))} {kind}"
            for kind in ("loaded", "adapted", "rescaled", "skipped", "missing", "mismatched")
        )
        lines = [f"{self.path}: {counts} tensors, {self.share:.1%} of the values outside the output layer"]
        lines += [f"  recipe differs: {difference}" for difference in self.differences]
        for kind in ("adapted", "missing", "mismatched"):
            names = getattr(self, kind)
            lines += [f"  {kind}: {name}" for name in names[:_SHOWN]]
            lines += [f"  {kind}: {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
        return "\n".join(lines)


def find_weights(path: str | Path, bundle_root: str | Path | None = None) -> Path:
    """Resolve a path against the working directory, then against the bundle.

    Raises:
        FileNotFoundError: when neither place has the file; names both.
    """
    places = [Path(path)]
    if bundle_root is not None and not Path(path).is_absolute():
        places.append(Path(bundle_root) / path)
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"no weights at {' or '.join(str(p) for p in places)}: run configs/pretrain.json first")


def how_to_get_weights(bundle: str | Path) -> str:
    """Return how a bundle gets its fine-tuned ``models/model.pt``, as text for error messages."""
    if (Path(bundle) / "large_files.yml").is_file():
        return f"python -m monai.bundle download_large_files --bundle_path {bundle} fetches them (it needs PyYAML)"
    return f"run {Path(bundle) / 'configs' / 'train.json'} first, which writes models/model.pt"


def save_weights(path: str | Path, network: nn.Module, recipe: Mapping[str, Any], bare: bool = False) -> None:
    """Save the weights of a stock network atomically, as CPU tensors and with their recipe.

    Args:
        path: target file.
        network: the stock network.
        recipe: plain data (numbers, strings, lists, dictionaries). The version of this package is added.
        bare: write the state dict alone, as MONAI Label expects of ``models/model.pt``, and the recipe as JSON beside
            it. Otherwise, both go into one file.
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
    """
    try:
        require_uncompressed(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"weights must hold tensors and plain data only, cannot read {path}: {reason}") from error
    if isinstance(content, dict) and "state_dict" in content:
        state, recipe = content["state_dict"], content.get("recipe", {})
    else:
        state, recipe = content, read_recipe(path)
    require_state_dict(state, path)
    require_plain_recipe(recipe, path)
    return state, recipe


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Read the recipe beside a bare state dict, which is empty if there is none.

    Raises:
        ValueError: when the file is not a JSON object, or its fingerprints are not lists of strings.
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
    """Return the fingerprints of every volume that weights have seen in pre-training or training."""
    return {v for key in SEEN for v in recipe.get(key, [])}


def adapt_stem(weight: Tensor, in_channels: int) -> Tensor:
    """Change the number of input channels of a convolution's weight (O, I, ...) and keep the size of its response.

    Every new channel gets the mean over the old channels, times the number of old channels divided by the number of new
    ones. If all channels have the same input, the response is unchanged.
    """
    mean = weight.mean(1, keepdim=True) * (weight.shape[1] / in_channels)
    return mean.repeat(1, in_channels, *[1] * (weight.ndim - 2))


def load_pretrained(
    network: nn.Module,
    path: str | Path,
    min_share: float = 0.9,
    recipe: Mapping[str, Any] | None = None,
    bundle_root: str | Path | None = None,
    restore_scale: bool = True,
) -> LoadReport:
    """Load pre-trained encoder and decoder weights into a segmentation network, in place.

    The output layer keeps its own weights. It is recognised by its name, since shapes can agree by chance. A stem with
    another number of input channels is adapted, see :func:`adapt_stem`.

    Weights grow in pre-training, those of the decoder to three to five times their initial size. If an instance
    normalisation follows a weight, its size does not change the output. But a large weight learns more slowly, as if
    its learning rate were lower. ``restore_scale`` gives such weights the norm of the network's own weights.

    Args:
        network: a stock network that :func:`.backbones.backbone_of` knows.
        path: file of :func:`save_weights` or a bare state dict, see :func:`find_weights`.
        min_share: least share of the network's values outside the output layer that must be loaded, in (0, 1].
        recipe: settings of the target, which are compared with the settings of pre-training that have the same names.
        bundle_root: second place to look for a relative path.
        restore_scale: see above. :func:`.networks.scale_free_norms` tells which weights it applies to.

    Returns:
        Report of what was done, which is also logged.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is unusable, ``min_share`` is out of range, or the loaded share is below it. The
            network is then unchanged.
    """
    if not 0 < min_share <= 1:
        raise ValueError(f"min_share must be in (0, 1], got {min_share}")
    found = find_weights(path, bundle_root)
    source, source_recipe = read_weights(found)
    report = LoadReport(str(found), recipe=source_recipe)
    new = _match(network, source, report)
    target = network.state_dict()
    output_layer = backbone_of(network).output_layer
    wanted = sum(t.numel() for name, t in target.items() if not _belongs(name, output_layer))
    report.share = sum(t.numel() for t in new.values()) / wanted
    report.differences = recipe_differences(source_recipe, recipe or {})
    if report.share < min_share:
        cause = "".join(f", since {text}" for text in report.differences if text.startswith("network "))
        raise ValueError(
            f"pre-trained weights must fill {min_share:.0%} of the network outside its output layer, "
            f"got {report.share:.1%}{cause}:\n{report}"
        )
    norms = scale_free.scale_free_norms(network) if restore_scale else {}
    network.load_state_dict({**target, **new})
    report.rescaled = scale_free.restore_scale(network, {name: norm for name, norm in norms.items() if name in new})
    logger.log(logging.WARNING if report.differences else logging.INFO, "Loaded pre-trained weights\n%s", report)
    return report


def _belongs(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")


def _match(network: nn.Module, source: Mapping[str, Tensor], report: LoadReport) -> dict[str, Tensor]:
    """Return the tensors of the source that fit the network, and enter all names into the report."""
    backbone, target = backbone_of(network), network.state_dict()
    new: dict[str, Tensor] = {}
    for name, tensor in source.items():
        if _belongs(name, backbone.output_layer) or name not in target:
            report.skipped.append(name)
        elif tensor.is_floating_point() != target[name].is_floating_point():
            report.mismatched.append(f"{name} {tensor.dtype} for {target[name].dtype}")
        elif tensor.shape == target[name].shape:
            new[name] = tensor
            report.loaded.append(name)
        elif name in backbone.stem and tensor.shape[2:] == target[name].shape[2:] and len(tensor) == len(target[name]):
            new[name] = adapt_stem(tensor, target[name].shape[1])
            report.adapted.append(name)
        else:
            report.mismatched.append(f"{name} {tuple(tensor.shape)} for {tuple(target[name].shape)}")
    report.missing = [n for n in target if n not in source and not _belongs(n, backbone.output_layer)]
    return new


def recipe_differences(source: Mapping[str, Any], target: Mapping[str, Any]) -> list[str]:
    """Return one text for each setting that both recipes have and that differs."""
    shared = [key for key in target if key in source]
    plain = {key: json.loads(json.dumps(target[key])) for key in shared}
    return [f"{key} was {source[key]}, is {plain[key]}" for key in shared if source[key] != plain[key]]
