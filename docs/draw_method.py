# SPDX-License-Identifier: Apache-2.0

"""Draw the figures of docs/explanation/method.md with the package's own functions.

    python docs/draw_method.py                  # masks.png, region.png and heads.png in docs/explanation
    python docs/draw_method.py --output DIR     # elsewhere

The image is a phantom (synthetic, no patient). Crop, sub-volumes, patches and mask ratio are those of the CT bundles.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from hybridmim_components.method.masking import MaskGrid, expand_mask, sample_mask
from hybridmim_components.method.partial_region import Region, choose_region
from hybridmim_components.phantoms import abdomen_phantom

GRID = MaskGrid(96, 32, 16)
WINDOW = (-57, 164)  # HU
DEPTH = 56  # the slice that is drawn: in the middle layer of sub-volumes, and in the upper layer of their patches
RATIO = 0.4
MASKED, FRAME = "steelblue", "gold"


def phantom() -> np.ndarray:
    """A crop (96, 96, 96) of a CT-like phantom, its HU clipped to the window and scaled to 0..1.

    The first axis is flipped: radiological convention, the patient's right on the left of the picture.
    """
    hu, _ = abdomen_phantom(np.random.default_rng(3), GRID.image_size, (3.0, 3.0, 3.0))
    low, high = WINDOW
    return (np.clip(hu[::-1], low, high) - low) / (high - low)


def draw_mask(strategy: str) -> torch.Tensor:
    """Which patches (1, S, P) a strategy masks; a fixed seed."""
    return sample_mask(GRID, 1, RATIO, strategy, torch.Generator().manual_seed(2))


def voxels_of(mask: torch.Tensor) -> np.ndarray:
    """A mask (1, S, P) as voxels (96, 96, 96)."""
    return expand_mask(mask, GRID)[0, 0].numpy()


def show(axes: Axes, crop: np.ndarray, title: str, hidden: np.ndarray | None = None) -> None:
    """Draw the slice, front at the top, with the masked voxels in blue."""
    axes.imshow(crop[:, :, DEPTH].T, cmap="gray", vmin=0, vmax=1, origin="lower", extent=(0, 96, 0, 96))
    if hidden is not None:
        blue = np.zeros((*hidden.shape[:2], 4))
        blue[hidden[:, :, DEPTH]] = to_rgba(MASKED)
        axes.imshow(blue.transpose(1, 0, 2), origin="lower", extent=(0, 96, 0, 96), interpolation="nearest")
    axes.set(xlim=(0, 96), ylim=(0, 96), xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)


def draw_grid(axes: Axes) -> None:
    """Solid lines between sub-volumes, dashed ones between patches."""
    for step, width, style in ((16, 0.7, (0, (4, 4))), (32, 1.8, "-")):
        for at in range(step, 96, step):
            axes.axhline(at, color="white", linewidth=width, linestyle=style)
            axes.axvline(at, color="white", linewidth=width, linestyle=style)


def draw_numbers(axes: Axes, mask: torch.Tensor) -> None:
    """Number of masked patches of each sub-volume in the slice."""
    numbers = mask.sum(-1).view(GRID.subvolume_grid)[:, :, DEPTH // 32]
    for (i, j), number in np.ndenumerate(numbers.numpy()):
        box = {"boxstyle": "round,pad=0.2", "facecolor": "black", "alpha": 0.6, "edgecolor": "none"}
        axes.text(32 * i + 16, 32 * j + 16, str(number), color="white", ha="center", va="center", fontsize=11, bbox=box)


def draw_masks(path: Path) -> None:
    """masks.png: the grid, a mask of each strategy, and how many patches of a sub-volume each strategy masks."""
    crop = phantom()
    figure = Figure(figsize=(10.4, 3.1), layout="constrained")
    axes = figure.subplots(1, 4)
    show(axes[0], crop, "crop: 27 sub-volumes (solid)\nof 8 patches (dashed)")
    draw_grid(axes[0])
    bars = axes[3]
    for panel, strategy, offset, colour in (
        (axes[1], "hierarchical", -0.2, MASKED),
        (axes[2], "uniform", 0.2, "darkorange"),
    ):
        mask = draw_mask(strategy)
        show(panel, crop, f"{strategy} mask\n{int(mask.sum())} of 216 patches", voxels_of(mask))
        draw_grid(panel)
        draw_numbers(panel, mask)
        many = sample_mask(GRID, 2000, RATIO, strategy, torch.Generator().manual_seed(0)).sum(-1).flatten()
        shares = torch.bincount(many, minlength=GRID.num_patches + 1) / len(many)
        bars.bar(np.arange(GRID.num_patches + 1) + offset, shares.numpy(), 0.4, color=colour, label=strategy)
    bars.set_title("masked patches of a sub-volume,\nshare of all sub-volumes", fontsize=10)
    bars.set_xticks(range(GRID.num_patches + 1))
    bars.set_ylim(0, 0.4)
    bars.legend(frameon=False, loc="upper center", ncols=2, columnspacing=1, handlelength=1)
    bars.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def draw_region(path: Path) -> None:
    """region.png: what the encoder sees, what the decoder reconstructs, and which voxels the pixel level scores."""
    crop, mask = phantom(), draw_mask("hierarchical")
    hidden = voxels_of(mask)
    region = choose_region(GRID, "random", torch.Generator().manual_seed(1))
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    show(axes[0], crop, "the encoder sees\nthe whole masked crop", hidden)
    inside = np.zeros(GRID.image_size, bool)
    inside[region.box] = True
    show(
        axes[1],
        np.where(inside, crop, np.nan),
        "the decoder sees the partial region,\n2 x 2 x 2 sub-volumes",
        hidden & inside,
    )
    show(
        axes[2],
        np.where(inside & hidden, crop, np.nan),
        "the reconstruction is compared\nwith the image in these voxels",
    )
    for panel in axes:
        panel.set_facecolor("0.93")
        draw_frame(panel, region)
    draw_grid(axes[0])
    save(figure, path)


def draw_frame(axes: Axes, region: Region) -> None:
    """Outline of the region in the slice."""
    x, y, z = region.box
    assert z.start <= DEPTH < z.stop, "the region does not hold the slice"
    frame = Rectangle((x.start, y.start), x.stop - x.start, y.stop - y.start, fill=False)
    frame.set(edgecolor=FRAME, linewidth=3, clip_on=False, zorder=5)
    axes.add_patch(frame)


def draw_heads(path: Path) -> None:
    """heads.png: the way from a crop to the five losses."""
    figure = Figure(figsize=(9.5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 100), ylim=(0, 39))
    axes.set_axis_off()

    def box(x: float, y: float, width: float, text: str, colour: str) -> tuple[float, float, float]:
        shape = FancyBboxPatch((x, y - 3), width, 6, boxstyle="round,pad=0.3", facecolor=colour, edgecolor="0.35")
        axes.add_patch(shape)
        axes.text(x + width / 2, y, text, ha="center", va="center", fontsize=9.5)
        return x, x + width, y

    def arrow(start: tuple[float, float, float], end: tuple[float, float, float]) -> None:
        style = {"arrowstyle": "-|>", "color": "0.35", "shrinkA": 4, "shrinkB": 4}
        axes.annotate("", (end[0], end[2]), (start[1], start[2]), arrowprops=style)

    network, head, level = "#d9e6f2", "#f2f2f2", "#fdeccf"
    crop = box(1, 20, 11, "masked crop", "white")
    encoder = box(18, 20, 11, "encoder", network)
    rows = (
        (
            34,
            "decoder, on the\npartial region",
            network,
            "reconstruction\nhead",
            "pixel level: masked voxels\nof the partial region",
        ),
        (
            20,
            "sub-volumes\nof the bottleneck",
            "white",
            "number head,\nlocation head",
            "region level: number, location,\nconsistency",
        ),
        (
            6,
            "means of the bottleneck,\ntwo dropout views",
            "white",
            "projection head",
            "sample level: contrast with\nother samples",
        ),
    )
    arrow(crop, encoder)
    for y, middle, colour, head_text, level_text in rows:
        first = box(33, y, 19, middle, colour)
        second = box(57.5, y, 13, head_text, head)
        third = box(76, y, 22.5, level_text, level)
        arrow(encoder, first)
        arrow(first, second)
        arrow(second, third)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=90)
    print(path)


def main() -> None:
    """Draw all figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "explanation")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    draw_masks(output / "masks.png")
    draw_region(output / "region.png")
    draw_heads(output / "heads.png")


if __name__ == "__main__":
    main()
