# SPDX-License-Identifier: Apache-2.0

"""Export of a trained bundle to a verified file: write, read back, compare with PyTorch, then publish."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from hybridmim_components.deployment.comparison import Comparison, compare, phantom_images
from hybridmim_components.deployment.formats import FORMATS, DeploymentFormat
from hybridmim_components.deployment.trained_bundle import TrainedBundle

__all__ = ["ExportReport", "export", "export_network"]

TOLERANCE = 1e-3
AGREEMENT = 0.999
# differs from the crops of all configs; small, since only the different shape matters
_OTHER_SIZE = (48, 32, 32)


@dataclass(frozen=True)
class ExportReport:
    """Report on an exported file and its difference from PyTorch.

    Example:
        >>> names = {"format": "torchscript", "network": "BasicUNet", "versions": ["torch 2.8.0"]}
        >>> files = {"path": Path("model.ts"), "weights": Path("model.pt"), "size": 1_300_000}
        >>> found = {"comparison": Comparison(2e-6, 1.0), "tolerance": 1e-3, "shapes": [(1, 1, 96, 96, 96)]}
        >>> print(ExportReport(**names, **files, **found, seconds=4.2))
        model.ts: BasicUNet of model.pt as torchscript, 1.3 MB
          logits differ from PyTorch by at most 2e-06 (tolerance 0.001), 100.0000% of the voxels get the same label;
          phantoms 1x1x96x96x96
          4 s with torch 2.8.0
    """

    path: Path
    format: str
    network: str
    weights: Path
    comparison: Comparison
    """Worst values over all compared crops."""
    tolerance: float
    shapes: list[tuple[int, ...]]
    """Shapes of the compared batches."""
    size: int
    """Total size of all files in bytes."""
    seconds: float
    versions: list[str]
    notes: list[str] = field(default_factory=list)
    """Limits of the file, and what its users must know."""

    def __str__(self) -> str:
        shapes = ", ".join("x".join(str(n) for n in shape) for shape in self.shapes)
        lines = [
            f"{self.path}: {self.network} of {self.weights} as {self.format}, {self.size / 1e6:.1f} MB",
            f"  logits differ from PyTorch by at most {self.comparison.max_difference:.2g} (tolerance "
            f"{self.tolerance:g}), {self.comparison.agreement:.4%} of the voxels get the same label; phantoms {shapes}",
            *(f"  {note}" for note in self.notes),
            f"  {self.seconds:.0f} s with {', '.join(self.versions)}",
        ]
        return "\n".join(lines)


def export_network(
    bundle: str | Path,
    format: str,
    output: str | Path | None = None,
    weights: str | Path | None = None,
    roi_size: Sequence[int] | None = None,
    overrides: Mapping[str, Any] | None = None,
    tolerance: float = TOLERANCE,
) -> ExportReport:
    """Export a bundle's trained network, and verify on phantoms that the file gives PyTorch's logits.

    The export uses single precision on the CPU. A file takes its final name only after it has passed the comparison. If
    the comparison or anything else fails, no new file remains and an older one is not changed.

    Args:
        bundle: folder of the bundle.
        format: torchscript, onnx or openvino.
        output: file to write; default ``models/model`` of the bundle with the format's suffix.
        weights: file of a fine-tuned network; default ``models/model.pt`` of the bundle.
        roi_size: crop (H, W, D) in voxels; default: that of the config.
        overrides: overrides of inference.json that training had, such as
            ``{"network_def#features": [8, 8, 16, 32, 64, 8]}``.
        tolerance: largest accepted difference of logits; in addition, 99.9 % of the voxels must get the same label.

    Returns:
        Report on the file, its difference from PyTorch, and its limits.

    Raises:
        FileNotFoundError: when weights or a config are missing.
        ValueError: when an argument is out of range, a package is missing, the weights do not fit, or the exported
            network differs from PyTorch.

    Example:
        >>> from hybridmim_components.weights import save_weights
        >>> save_weights("model.pt", BasicUNet(features=(4, 4, 4, 4, 4, 4)), {})
        >>> overrides = {"network_def#features": [4, 4, 4, 4, 4, 4]}
        >>> folder = "bundles/hybridmim_msd_spleen_unet_segmentation"
        >>> report = export_network(folder, "torchscript", "model.ts", "model.pt", (32, 32, 32), overrides)
        >>> report.comparison.max_difference < report.tolerance, report.notes
        (True, ['takes any batch size and any size of crop'])
    """
    start = time.perf_counter()
    if format not in FORMATS:
        raise ValueError(f"format must be one of {tuple(FORMATS)}, got {format!r}")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be above 0, got {tolerance}")
    form = FORMATS[format]
    target = _target(bundle, form, output)
    versions = form.check_packages()
    source = TrainedBundle.load(bundle, weights, roi_size, overrides)
    target.parent.mkdir(parents=True, exist_ok=True)
    # beside the target, so that publishing is a rename
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        draft = Path(folder) / target.name
        form.write(source, draft)
        comparison, shapes, remarks = _verify(source, form, draft, tolerance)
        files = [draft.with_suffix(suffix) for suffix in form.suffixes]
        size = sum(file.stat().st_size for file in files)
        _publish(files, target.parent)
    return ExportReport(
        path=target,
        format=form.name,
        network=type(source.network).__name__,
        weights=source.weights,
        comparison=comparison,
        tolerance=tolerance,
        shapes=shapes,
        size=size,
        seconds=time.perf_counter() - start,
        versions=versions,
        notes=form.limits(source) + remarks,
    )


def export(
    bundle: str,
    format: str = "torchscript",
    output: str | None = None,
    weights: str | None = None,
    roi_size: Sequence[int] | None = None,
    overrides: dict | None = None,
    tolerance: float = TOLERANCE,
) -> str:
    """Export a bundle's trained network for deployment, verify the file against PyTorch and print the difference.

    Args:
        bundle: folder of the bundle.
        format: torchscript (MONAI Deploy reads it), onnx or openvino.
        output: file to write; default: models/model.ts, .onnx or .xml (with .bin) of the bundle.
        weights: file of a fine-tuned network; default: models/model.pt of the bundle.
        roi_size: crop in voxels, such as "[96,96,96]"; default: that of configs/inference.json.
        overrides: overrides of inference.json that training had, such as "{'network_def#feature_size':24}".
        tolerance: largest absolute difference of logits that is accepted.

    Example:
        >>> from hybridmim_components.weights import save_weights
        >>> save_weights("model.pt", BasicUNet(features=(4, 4, 4, 4, 4, 4)), {})
        >>> smaller = {"network_def#features": [4, 4, 4, 4, 4, 4], "roi_size": [32, 32, 32]}
        >>> folder = "bundles/hybridmim_msd_spleen_unet_segmentation"
        >>> print(export(folder, output="model.ts", weights="model.pt", overrides=smaller))
        model.ts: BasicUNet of model.pt as torchscript, ... MB
          logits differ from PyTorch by at most ... (tolerance 0.001), 100.0000% of the voxels get the same label;
          phantoms 1x1x32x32x32, 2x1x48x32x32
          takes any batch size and any size of crop
          ... s with torch ...
    """
    return str(export_network(bundle, format, output, weights, roi_size, overrides, tolerance))


def _target(bundle: str | Path, form: DeploymentFormat, output: str | Path | None) -> Path:
    suffix = form.suffixes[-1]
    target = Path(bundle) / "models" / f"model{suffix}" if output is None else Path(output)
    if target.suffix != suffix:
        raise ValueError(f"output must end in {suffix} for the format {form.name}, got {target}")
    return target


def _verify(
    source: TrainedBundle, form: DeploymentFormat, file: Path, tolerance: float
) -> tuple[Comparison, list[tuple[int, ...]], list[str]]:
    """Compare a file with PyTorch on a single crop, and on two crops of another size if the file accepts one."""
    runtime = form.load(file)
    batches = [(1, source.roi_size), (2, _OTHER_SIZE if source.resizable else source.roi_size)]
    comparison, shapes, remarks = Comparison(0.0, 1.0), [], []
    for seed, (batch_size, size) in enumerate(batches):
        images = phantom_images(source, batch_size, size, seed=10 * seed)
        with torch.inference_mode():
            expected, logits = source.network(images), runtime(images)
        if expected.shape[1] != source.out_channels:
            raise ValueError(
                f"the network must have the {source.out_channels} outputs of metadata.json, got {expected.shape[1]}"
            )
        comparison = comparison.worst(compare(expected, logits, source.overlapping))
        shapes.append(tuple(images.shape))
        if seed == 0:
            remarks = form.remarks(file, images, expected, source.overlapping)
    if not (comparison.max_difference <= tolerance and comparison.agreement >= AGREEMENT):
        raise ValueError(
            f"the {form.name} file must give PyTorch's logits within {tolerance:g} and the same label to "
            f"{AGREEMENT:.1%} of the voxels, got {comparison.max_difference:.2g} and {comparison.agreement:.4%}: "
            "nothing was written"
        )
    return comparison, shapes, remarks


def _publish(files: Sequence[Path], folder: Path) -> None:
    """Rename files into place.

    The last file is the one that users open. An old one is deleted first, so that a kill between two renames cannot
    leave it beside new weights.
    """
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    if len(files) > 1:
        (folder / files[-1].name).unlink(missing_ok=True)
    for file in files:
        os.replace(file, folder / file.name)
