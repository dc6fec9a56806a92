# SPDX-License-Identifier: Apache-2.0

"""Plots of growth.py: two logarithmic panels for a variable, time and memory, with the slopes in the legend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from growth import Row, Variable

__all__ = ["draw", "plain", "plain_power"]


def draw(variable: Variable, rows: list[Row], path: Path) -> None:
    """Draw the points, and a line through those of the fit."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    sources = list(dict.fromkeys(_source(row.series) for row in rows))
    for axis, (measure, title) in zip(figure.subplots(1, 2), variable.titles.items(), strict=True):
        own = [row for row in rows if row.measure == measure]
        axis.set(xscale="log", yscale="log", xlabel=variable.axis)
        for name in dict.fromkeys(row.series for row in own):
            _draw_series(axis, [row for row in own if row.series == name], sources.index(_source(name)))
        axis.set_title(title, fontsize=11, loc="left")
        axis.set_xticks(list(variable.ticks.values()), list(variable.ticks))
        _label_costs(axis, [row.value for row in own])
        axis.minorticks_off()
        axis.grid(color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.13))
    figure.savefig(path, dpi=80)


def _source(series: str) -> str:
    return series.partition(":")[0]


def _draw_series(axis: Axes, rows: list[Row], number: int) -> None:
    fit = [row for row in rows if row.power is not None]
    power, colour = fit[-1].power or 0.0, f"C{number}"
    label = f"{rows[0].series}: to the power {plain_power(power)}"
    fill = "white" if _source(rows[0].series) != rows[0].series else colour
    x, values = [row.x for row in rows], [row.value for row in rows]
    centre_x, centre = np.exp(np.mean(np.log([[row.x, row.value] for row in fit]), axis=0))
    ends = np.array([fit[0].x, fit[-1].x])
    axis.plot(ends, centre * (ends / centre_x) ** power, color=colour, linewidth=1.5)
    axis.plot(x, values, "os"[number], color=colour, markerfacecolor=fill, label=label, clip_on=False, zorder=3)


def _label_costs(axis: Axes, values: list[float]) -> None:
    """Set ticks at 1, 2 and 5 of each decade, or at whole decades if there are many, as plain numbers."""
    low, high = np.log10(min(values)) - 0.1, np.log10(max(values)) + 0.1
    digits = (1, 2, 5) if high - low < 3 else (1,)
    ticks = [d * 10.0**e for e in range(int(np.floor(low)), int(np.ceil(high))) for d in digits]
    ticks = [tick for tick in ticks if low <= np.log10(tick) <= high]
    axis.set_ylim(10**low, 10**high)
    axis.set_yticks(ticks, [plain(tick) for tick in ticks])


def plain(value: float) -> str:
    """Format a number with three digits and no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def plain_power(power: float) -> str:
    """Format a power with two decimals, and no minus before a zero."""
    return f"{round(power, 2) + 0:.2f}"
