# SPDX-License-Identifier: Apache-2.0

"""Learning curves as SVG text that takes its colours from the page, so that it is readable on light and dark."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hybridmim_components.system.files import Row

__all__ = ["LINE_COLOURS", "curves_svg", "smooth"]

#: Okabe and Ito's colours that can be told apart by colour-blind readers and seen on white and on black.
LINE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_RUNNING = ", running mean"
_INK = "#010203"  # stands for the page's own text colour
_SVG_DPI = 72  # a pixel is then the unit of the SVG file
_DASHES = ("-", "--", "-.", ":")


def curves_svg(
    curves: Mapping[str, tuple[Sequence[Row], str]],
    ylabel: str,
    level: tuple[float, str] | None = None,
    smoothed: bool = True,
) -> Markup:
    """Draw values against the epoch. A browser shows the values of an epoch where the pointer is.

    Args:
        curves: for each name in the legend, rows of a CSV file and the column to draw.
        ylabel: what the values are.
        level: a value to draw as a horizontal line, with its name.
        smoothed: whether to draw the running mean of curves of 40 points and more.

    Returns:
        An ``svg`` element.
    """
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": ylabel, "font.size": 11}):
        figure = Figure(figsize=(6.4, 3.4), dpi=_SVG_DPI, layout="constrained")
        axis = figure.subplots()
        lines: dict[str, Any] = {}
        for number, (name, (rows, column)) in enumerate(curves.items()):
            values: Any = [float(row[column]) for row in rows]
            if smoothed and len(values) >= 40:
                values, ylabel = smooth(values), ylabel.removesuffix(_RUNNING) + _RUNNING
            style: dict[str, Any] = {
                "color": LINE_COLOURS[number % len(LINE_COLOURS)],
                "linestyle": _DASHES[number // len(LINE_COLOURS) % len(_DASHES)],
                "marker": "o" if len(rows) <= 20 else None,
            }
            lines[name] = axis.plot([int(row["epoch"]) for row in rows], values, markersize=4, **style)[0]
        if level:
            lines[level[1]] = axis.axhline(level[0], color=_INK, linestyle="--", linewidth=1)
        axis.set_ylim(bottom=0)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set(xlabel="epoch", ylabel=ylabel)
        axis.tick_params(colors=_INK)
        axis.grid(alpha=0.2, color=_INK)
        for text in (axis.xaxis.label, axis.yaxis.label):
            text.set_color(_INK)
        for spine in axis.spines.values():
            spine.set_color(_INK)
        names = [f" {name}" for name in lines]  # the space: matplotlib leaves out names that begin with _
        legend = axis.legend(list(lines.values()), names, labelcolor=_INK, framealpha=0, fontsize=10)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a name may hold dollar signs
        figure.draw_without_rendering()  # places the axes
        strips = _hover_strips(axis, {name: line for name, line in lines.items() if name in curves})
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    # names of groups would stand several times in a page that holds several curves
    svg = re.sub(r'<g id="[^"]*"', "<g", svg[svg.index("<svg") :]).replace(_INK, "currentColor")
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(ylabel)} against the epoch" ', 1)
    return Markup(svg.replace("</svg>", f"{strips}</svg>"))


def _hover_strips(axis: Any, lines: Mapping[str, Any]) -> str:
    """Return a clear strip for each epoch that has values, from the top of the axes to the bottom, with its values."""
    values: dict[int, list[str]] = {}
    for name, line in lines.items():
        for epoch, value in line.get_xydata():
            values.setdefault(int(epoch), []).append(f"{name}: {value:.4g}")
    if not values:
        return ""
    box, height = axis.get_window_extent(), axis.get_figure().bbox.height
    epochs = sorted(values)
    at = [axis.transData.transform((epoch, 0))[0] for epoch in epochs]
    middles = [box.x0, *((left + right) / 2 for left, right in itertools.pairwise(at)), box.x1]
    return "".join(
        f'<rect x="{left:.1f}" y="{height - box.y1:.1f}" width="{right - left:.1f}" height="{box.height:.1f}" '
        f'fill="none" pointer-events="all"><title>epoch {epoch}\n{escape(chr(10).join(values[epoch]))}</title></rect>'
        for epoch, (left, right) in zip(epochs, itertools.pairwise(middles), strict=True)
    )


def smooth(values: Sequence[float]) -> np.ndarray:
    """Return the running mean over a twentieth of a curve.

    Example:
        >>> smooth([1.0, 2.0]).tolist()
        [1.0, 2.0]
    """
    span = max(1, len(values) // 20)
    padded = np.pad(np.asarray(values), (span // 2, span - 1 - span // 2), mode="edge")
    return np.convolve(padded, np.ones(span) / span, mode="valid")
