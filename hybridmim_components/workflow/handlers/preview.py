# SPDX-License-Identifier: Apache-2.0

"""Handler that draws the reconstruction once per validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from hybridmim_components.method.masking import expand_mask
from hybridmim_components.method.partial_region import Region

__all__ = ["ReconstructionPreview", "draw_reconstruction"]


class ReconstructionPreview:
    """Handler that saves input, masked input, reconstruction and target of the first validation batch as PNG.

    Attach it to the evaluator of pre-training, whose network is a :class:`.method.HybridMIM`.

    Args:
        output_dir: folder of the pictures, ``epoch_0001.png`` and so on.
        max_samples: largest number of rows in a picture.

    Example:
        >>> image = torch.rand(1, 1, 16, 16, 16)
        >>> region = choose_region(MaskGrid(16, 8, 4), "full")
        >>> targets = {"image": image, "mask": sample_mask(region.grid, 1), "region": region}
        >>> evaluator = Engine(lambda engine, batch: {"label": targets, "pred": {"reconstruction": image}})
        >>> ReconstructionPreview("previews").attach(evaluator)
        >>> _ = evaluator.run([0, 1])
        >>> [path.name for path in Path("previews").iterdir()]
        ['epoch_0001.png']
    """

    def __init__(self, output_dir: str | Path, max_samples: int = 3) -> None:
        self.output_dir = Path(output_dir)
        self.max_samples = max_samples

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Draw the batch that just ended if it is the first of the validation."""
        if idist.get_rank() != 0 or engine.state.iteration != 1:
            return
        output: Any = engine.state.output
        targets = output["label"]
        figure = draw_reconstruction(
            targets["image"], targets["mask"], targets["region"], output["pred"]["reconstruction"], self.max_samples
        )
        self.output_dir.mkdir(parents=True, exist_ok=True)
        figure.savefig(self.output_dir / f"epoch_{engine.state.epoch:04d}.png", dpi=80)


def draw_reconstruction(
    image: Tensor, mask: Tensor, region: Region, reconstruction: Tensor, max_samples: int = 3
) -> Figure:
    """Draw one slice of each sample, from the middle of the region along the last axis.

    Args:
        image: crops (B, C, H, W, D); the first channel is drawn.
        mask: boolean (B, S, P).
        region: the partial region, outlined in yellow.
        reconstruction: (B, C, *region).
        max_samples: largest number of rows.

    Returns:
        A figure with a row per sample: input, masked input, prediction, and the input with masked voxels predicted.
    """
    rows = min(len(image), max_samples)
    figure = Figure(figsize=(12, 3.1 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 4, squeeze=False)
    hidden = expand_mask(mask, region.grid)
    predicted = image.detach().clone()
    predicted[(slice(None), slice(None), *region.box)] = reconstruction.detach().to(image.dtype)
    filled = image.where(~hidden, predicted)
    depth = (region.box[-1].start + region.box[-1].stop) // 2
    low, high = float(image.min()), float(image.max())
    columns = {
        "input = target": image,
        "masked input": image.masked_fill(hidden, float("nan")),
        "network's output in the region": predicted,
        "masked patches filled in": filled,
    }
    for row in range(rows):
        for axis, (title, volume) in zip(axes[row], columns.items(), strict=True):
            plane = volume[row, 0, :, :, depth].detach().float().cpu().numpy()
            _show(axis, plane, low, high, region)
            if row == 0:
                axis.set_title(title)
    return figure


def _show(axis: Any, plane: np.ndarray, low: float, high: float, region: Region) -> None:
    """Show a plane of a RAS image: the left of the picture is the patient's right, up is anterior."""
    axis.set_facecolor("steelblue")
    axis.imshow(np.flip(plane.T, 1), cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="nearest")
    across, up = region.box[:2]
    corner = (plane.shape[0] - across.stop - 0.5, up.start - 0.5)
    size = (across.stop - across.start, up.stop - up.start)
    axis.add_patch(Rectangle(corner, *size, fill=False, edgecolor="gold", linewidth=2))
    axis.set_xticks([])
    axis.set_yticks([])
