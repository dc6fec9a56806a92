# SPDX-License-Identifier: Apache-2.0

"""Loading of pre-trained weights into a segmentation network, encoder and decoder, with a report of every name."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hybridmim_components.networks import scale_free
from hybridmim_components.networks.backbones import backbone_of
from hybridmim_components.weights.saving import find_weights, read_weights

__all__ = ["LoadReport", "adapt_stem", "load_pretrained", "recipe_differences"]

logger = logging.getLogger(__name__)

_OVERWRITTEN = "an earlier state of the same file"
_SHOWN = 5  # names of each kind; with another network, a hundred may be missing


@dataclass
class LoadReport:
    """Report of what :func:`load_pretrained` did, by tensor name.

    Example:
        >>> from hybridmim_components.weights import save_weights
        >>> save_weights("pretrained.pt", BasicUNet(features=(4, 4, 4, 4, 4, 4)), {"spacing": [1, 1, 1]})
        >>> network = BasicUNet(in_channels=2, features=(4, 4, 4, 4, 4, 4))
        >>> print(load_pretrained(network, "pretrained.pt", recipe={"spacing": [1, 1, 2]}))
        pretrained.pt: 79 loaded, 1 adapted, 18 rescaled, 2 skipped, 0 missing, 0 mismatched tensors,
        100.0% of the values outside the output layer
          recipe differs: spacing was [1, 1, 1], is [1, 1, 2]
          adapted: conv_0.conv_0.conv.weight
    """

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
    digest: str = ""
    """Digest of the file's tensors, by which a run tells whether it started from the same weights; or, if the run
    overwrites the file, a text that says so."""

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


def adapt_stem(weight: Tensor, in_channels: int) -> Tensor:
    """Change the number of input channels of a convolution's weight (O, I, ...) and keep the size of its response.

    Every new channel gets the mean over the old channels, times the number of old channels divided by the number of new
    ones. If all channels have the same input, the response is unchanged.

    Example:
        >>> adapt_stem(torch.ones(8, 1, 3, 3, 3), in_channels=4)[0, :, 0, 0, 0].tolist()
        [0.25, 0.25, 0.25, 0.25]
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
    output: str | Path | None = None,
) -> LoadReport:
    """Load pre-trained encoder and decoder weights into a segmentation network, in place.

    The output layer keeps its own weights. It is recognised by its name, since shapes can agree by chance. A stem with
    another number of input channels is adapted, see :func:`adapt_stem`.

    Weights grow in pre-training, those of the decoder to three to five times their initial size. If an instance
    normalisation follows a weight, its size does not change the output. But a large weight learns more slowly, as if
    its learning rate were lower. ``restore_scale`` gives such weights the norm of the network's own weights.

    Args:
        network: a stock network that :func:`.backbones.backbone_of` knows.
        path: file of :func:`.save_weights` or a bare state dict, see :func:`.find_weights`.
        min_share: least share of the network's values outside the output layer that must be loaded, in (0, 1].
        recipe: settings of the target, which are compared with the settings of pre-training that have the same names.
        bundle_root: second place to look for a relative path.
        restore_scale: see above. :func:`.networks.scale_free_norms` tells which weights it applies to.
        output: file that the run will write. If it is the same file, the report has no digest of it, since a run that
            is resumed would find another one.

    Returns:
        Report of what was done, which is also logged.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is unusable, ``min_share`` is out of range, or the loaded share is below it. The
            network is then unchanged.

    Example:
        >>> from hybridmim_components.weights import save_weights
        >>> save_weights("pretrained.pt", BasicUNet(features=(4, 4, 4, 4, 4, 4)), {"spacing": [1, 1, 1]})
        >>> network = BasicUNet(in_channels=2, out_channels=5, features=(4, 4, 4, 4, 4, 4))
        >>> report = load_pretrained(network, "pretrained.pt", recipe={"spacing": [1, 1, 2]})
        >>> report.share, report.adapted, report.differences
        (1.0, ['conv_0.conv_0.conv.weight'], ['spacing was [1, 1, 1], is [1, 1, 2]'])
    """
    if not 0 < min_share <= 1:
        raise ValueError(f"min_share must be in (0, 1], got {min_share}")
    found = find_weights(path, bundle_root)
    source, source_recipe = read_weights(found)
    report = LoadReport(str(found), recipe=source_recipe, digest=_OVERWRITTEN)
    if output is None or found.resolve() != Path(output).resolve():
        report.digest = _digest(source)
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
    level = logging.WARNING if report.differences or report.mismatched else logging.INFO
    logger.log(level, "Loaded pre-trained weights\n%s", report)
    return report


def _digest(state: Mapping[str, Tensor]) -> str:
    """Return the first 16 digits of the SHA-256 of names, types, shapes and values."""
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]


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
    """Return one text for each setting that both recipes have and that differs.

    Example:
        >>> recipe_differences({"spacing": [1, 1, 1], "epochs": 5}, {"spacing": [1, 1, 2]})
        ['spacing was [1, 1, 1], is [1, 1, 2]']
    """
    shared = [key for key in target if key in source]
    plain = {key: json.loads(json.dumps(target[key])) for key in shared}
    return [f"{key} was {source[key]}, is {plain[key]}" for key in shared if source[key] != plain[key]]
