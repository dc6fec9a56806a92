# SPDX-License-Identifier: Apache-2.0

"""Measure how time and memory grow with crop, batch, number of volumes, number of classes and volume size.

    python benchmarks/growth.py                          # all five
    python benchmarks/growth.py --only crop batch        # some of them

The networks are small and run on one core, each point in a process of its own (see ``growth_points.py``). A slope is
the power of the variable that a cost grows with: a straight line is fitted to the logarithms of the upper half of the
points. For each variable, the script writes growth_NAME.csv, .md (the slopes) and .png to benchmarks/results.
"""

from __future__ import annotations

import argparse
import csv
import math
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import growth_points
import numpy as np
from growth_plots import draw, plain, plain_power

Figures = dict[str, float]
UNITS = {"time": "CPU s", "memory": "MiB"}


class Point(NamedTuple):
    """One measurement: the function to call, and its place on the axis."""

    series: str
    x: int
    label: str
    function: Callable[..., Figures]
    arguments: tuple[Any, ...]


class Row(NamedTuple):
    """Result of a point; ``power`` is the slope of its series, None if the point is not part of the fit."""

    series: str
    label: str
    x: int
    measure: str
    value: float
    power: float | None = None


@dataclass
class Variable:
    """Variable that a cost grows with.

    Attributes:
        noun: name in sentences such as "time grows with ``noun`` to the power".
        axis: label of the plot's axis.
        titles: titles of the panels, by measure.
        ticks: ticks of the axis, by their labels.
        points: points to measure.
        files: functions that write files beforehand, with their arguments.
    """

    noun: str
    axis: str
    titles: dict[str, str]
    ticks: dict[str, int]
    points: list[Point]
    files: list[tuple[Callable[..., None], tuple[Any, ...]]] = field(default_factory=list)


def crop(work: str) -> Variable:
    """Define a pre-training step by the size of its crops, all of which reconstruct the same share of the crop."""
    sizes = {
        "UNet": [(48, 48, 48), (96, 48, 48), (96, 96, 48), (96, 96, 96), (144, 96, 96), (144, 144, 96)],
        "SwinUNETR": [(96, 96, 64), (192, 96, 64), (288, 96, 64), (192, 192, 64)],
    }
    points = [
        Point(name, math.prod(size), "x".join(map(str, size)), growth_points.training_step, (name.lower(), size, 2))
        for name, own in sizes.items()
        for size in own
    ]
    ticks = {f"{n}³": n**3 for n in (48, 64, 96, 128)}
    return Variable("the crop's voxels", "voxels of a crop", step_titles("of 2 crops"), ticks, points)


def batch(work: str) -> Variable:
    """Define a pre-training step of crops of 64^3 by the size of its batch."""
    points = [
        Point(name, number, str(number), growth_points.training_step, (name.lower(), (64, 64, 64), number))
        for name in ("UNet", "SwinUNETR")
        for number in (1, 2, 4, 8)
    ]
    ticks = {point.label: point.x for point in points}
    return Variable(
        "the batch", "crops in a batch (1: without contrast)", step_titles("with crops of 64³"), ticks, points
    )


def volumes(work: str) -> Variable:
    """Define the start-up of pre-training from files, checked and cached in memory, and from a prepared store."""
    files, stores = (4, 8, 16, 32, 64), (10, 100, 1000, 10_000, 100_000)
    points = [
        Point("files, memory cache", n, str(n), growth_points.start_up, ("memory", f"{work}/noise/{n}")) for n in files
    ]
    points += [
        Point("prepared store", n, str(n), growth_points.start_up, ("store", f"{work}/stores/{n}")) for n in stores
    ]
    titles = {"time": "start-up of pre-training, CPU s", "memory": "own memory after it, MiB"}
    written: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
        (growth_points.write_noise, (f"{work}/noise", files, (128, 128, 64))),
        (growth_points.write_stores, (f"{work}/noise/{files[0]}", f"{work}/stores", stores)),
    ]
    ticks = {f"{n:,}": n for n in (10, 100, 1000, 10_000, 100_000)}
    return Variable("the number of volumes", "volumes", titles, ticks, points, written)


def classes(work: str) -> Variable:
    """Define inference on a CT of 128^3 by the number of classes."""
    return segmenting(work, "the number of classes", "classes", [(128, n) for n in (2, 4, 8, 14, 28)], "128³, ")


def size(work: str) -> Variable:
    """Define inference with two classes by the size of the CT."""
    return segmenting(work, "the CT's voxels", "voxels of the CT", [(n, 2) for n in (64, 96, 128, 192, 256)], "")


def segmenting(work: str, noun: str, axis: str, grid: list[tuple[int, int]], of: str) -> Variable:
    """Define inference by both pipelines; the grid holds pairs of the CT's side and the number of classes."""
    pipelines = {"inference.json": ("inference",), "with frugal_inference.json": ("inference", "frugal_inference")}
    by_classes = axis == "classes"
    points = [
        Point(
            name,
            number if by_classes else side**3,
            str(number) if by_classes else f"{side}x{side}x{side}",
            growth_points.inference,
            (f"{work}/ct_{side}", configs, number, work),
        )
        for name, configs in pipelines.items()
        for side, number in grid
    ]
    ticks = {str(n) if by_classes else f"{side}³": n if by_classes else side**3 for side, n in grid}
    titles = {"time": f"segmenting a CT, {of}CPU s", "memory": "peak memory beside that before, MiB"}
    written = [(growth_points.write_ct, (f"{work}/ct_{side}", (side,) * 3)) for side in {side for side, _ in grid}]
    return Variable(noun, axis, titles, ticks, points, written)


def step_titles(what: str) -> dict[str, str]:
    """Return the titles of the panels for a pre-training step."""
    return {"time": f"pre-training step {what}, CPU s", "memory": "peak memory beside that before, MiB"}


VARIABLES = {variable.__name__: variable for variable in (crop, batch, volumes, classes, size)}


def alone(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call a function in a new process, so that no earlier call affects its figures."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def measured(variable: Variable) -> list[Row]:
    """Measure all points of a variable."""
    for function, arguments in variable.files:
        alone(function, arguments)
    rows = []
    for point in variable.points:
        for measure, value in alone(point.function, point.arguments).items():
            kind, _, of = measure.partition(" of ")  # a series of its own for "memory of a worker"
            series = f"{point.series}: {of}" if of else point.series
            rows.append(Row(series, point.label, point.x, kind, value))
            print(f"{series:32s} {point.label:>12s} {kind:8s} {value:10.3f} {UNITS[kind]}", file=sys.stderr, flush=True)
    return rows


def power_of(x: Sequence[float], y: Sequence[float]) -> float:
    """Fit the slope in logarithms over the upper half of the points, including the middle ones.

    Args:
        x: ascending values of the variable.
        y: cost at each value, positive.
    """
    first = (len(x) - 1) // 2
    return float(np.polyfit(np.log(x[first:]), np.log(y[first:]), 1)[0])


def fitted(rows: list[Row]) -> list[Row]:
    """Add the power of their series to the rows of the upper half."""
    found = []
    for series, measure in dict.fromkeys((row.series, row.measure) for row in rows):
        own = sorted((r for r in rows if (r.series, r.measure) == (series, measure)), key=lambda row: row.x)
        power = power_of([row.x for row in own], [row.value for row in own])
        first = (len(own) - 1) // 2
        found += own[:first] + [row._replace(power=power) for row in own[first:]]
    return found


def table(rows: list[Row], noun: str) -> str:
    """Format the slopes as sentences in a table."""
    lines = ["| | measured | slope |", "|---|---|---|"]
    for series, measure in dict.fromkeys((row.series, row.measure) for row in rows):
        own = [row for row in rows if (row.series, row.measure) == (series, measure)]
        ends = " to ".join(plain(end.value) for end in (own[0], own[-1]))
        sentence = f"{measure} grows with {noun} to the power {plain_power(own[-1].power or 0.0)}"
        lines.append(f"| {series} | {ends} {UNITS[measure]}, from {own[0].label} to {own[-1].label} | {sentence} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", choices=list(VARIABLES), default=list(VARIABLES))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args(arguments)
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        del os.environ[name]  # use the allocator's default settings, as a user does
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        with tempfile.TemporaryDirectory() as work:
            variable = VARIABLES[name](work)
            rows = fitted(measured(variable))
        with open(options.output / f"growth_{name}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["series", name, variable.axis.partition(" (")[0], "measure", "value", "unit", "power"])
            for row in rows:
                power = "" if row.power is None else plain_power(row.power)
                writer.writerow([*row[:4], f"{row.value:.4g}", UNITS[row.measure], power])
        (options.output / f"growth_{name}.md").write_text(table(rows, variable.noun), encoding="utf-8")
        draw(variable, rows, options.output / f"growth_{name}.png")
        print(table(rows, variable.noun), flush=True)


if __name__ == "__main__":
    main()
