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

"""How time and memory grow with crop size, batch, number of volumes, classes and volume size: a plot each, with slopes.

    python benchmarks/growth.py                      # a quarter of an hour
    python benchmarks/growth.py --only crop batch

Small networks, so that a point takes seconds; one thread; each point in a process of its own. Time is CPU time. A slope
is that of the straight line through the upper half of the points, both axes logarithmic: 1 is in proportion, 0 is no
growth. Writes growth_<variable>.csv and .png to benchmarks/results.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import growth_points
import numpy as np

RESULTS = Path(__file__).resolve().parent / "results"
USUAL, FRUGAL = ["inference"], ["inference", "frugal_inference"]
MEASURES = {"time": "CPU time, s", "memory": "memory, MiB"}


class Point(NamedTuple):
    """One measurement: of what, at which value of the variable."""

    curve: str
    value: float
    time: float
    memory: float


def measured(function: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """Call in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def slope(values: Sequence[float], costs: Sequence[float]) -> float:
    """Power with which costs grow, over the upper half of the values."""
    first = (len(values) - 1) // 2
    return float(np.polyfit(np.log(values[first:]), np.log(np.maximum(costs[first:], 1e-3)), 1)[0])


def crop(work: Path) -> Iterator[Point]:
    """A pre-training step of two crops, by their voxels."""
    for backbone, sides in (("unet", (48, 64, 80, 96, 128)), ("swinunetr", (64, 96, 128))):
        for side in sides:
            yield Point(backbone, side**3, **measured(growth_points.training_step, backbone, [side] * 3, 2))


def batch(work: Path) -> Iterator[Point]:
    """A pre-training step by its crops, of 64³; a single one has no contrast."""
    for backbone in ("unet", "swinunetr"):
        for number in (1, 2, 4, 8):
            yield Point(backbone, number, **measured(growth_points.training_step, backbone, [64] * 3, number))


def volumes(work: Path) -> Iterator[Point]:
    """What a pre-training run does before its first step, by its volumes."""
    from prepared_store import prepare, simulate

    from hybridmim_components.phantoms import write_msd_spleen

    write_msd_spleen(work / "scans", 1, 32, size=(64, 64, 40), spacing=(3.0, 3.0, 4.0))
    scans = work / "scans" / "imagesTs"
    for number in (4, 8, 16, 32):
        (folder := work / f"scans_{number}").mkdir()
        for path in sorted(scans.glob("*.nii.gz"))[:number]:
            shutil.copy(path, folder)
        found = measured(growth_points.start_up, "memory", str(folder))
        yield Point("files, cached in memory", number, found["time"], found["memory"])
    store, _ = prepare(folder, work / "store")
    for number in (100, 1_000, 10_000, 100_000):
        found = measured(growth_points.start_up, "store", str(simulate(store, work / f"many_{number}", number)))
        yield Point("prepared store", number, found["time"], found["memory"])
        yield Point("prepared store, a worker", number, found["time"], found["memory of a worker"])


def classes(work: Path) -> Iterator[Point]:
    """Segmenting a CT of 160³ voxels, by the classes of the network."""
    growth_points.write_ct(str(work / "ct"), (160, 160, 160))
    for curve, configs in (("inference.json", USUAL), ("with frugal_inference.json", FRUGAL)):
        for number in (2, 4, 8, 16, 32):
            yield Point(
                curve, number, **measured(growth_points.inference, str(work / "ct"), configs, number, str(work))
            )


def size(work: Path) -> Iterator[Point]:
    """Segmenting a CT, 14 classes, by its voxels."""
    for side in (96, 128, 160, 208, 256):
        growth_points.write_ct(str(work / f"ct_{side}"), (side,) * 3)
    for curve, configs in (("inference.json", USUAL), ("with frugal_inference.json", FRUGAL)):
        for side in (96, 128, 160, 208, 256):
            found = measured(growth_points.inference, str(work / f"ct_{side}"), configs, 14, str(work))
            yield Point(curve, side**3, **found)


VARIABLES: dict[str, tuple[Callable[[Path], Iterator[Point]], str]] = {
    "crop": (crop, "voxels of a crop"),
    "batch": (batch, "crops in a batch"),
    "volumes": (volumes, "volumes"),
    "classes": (classes, "classes"),
    "size": (size, "voxels of the CT, 14 classes"),
}


def write(name: str, title: str, label: str, points: list[Point], folder: Path) -> None:
    """CSV of the points and the slopes, and a plot of both measures."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    rows = []
    for axis, (measure, unit) in zip(figure.subplots(1, 2), MEASURES.items(), strict=True):
        for curve in dict.fromkeys(point.curve for point in points):
            values, costs = zip(*((p.value, getattr(p, measure)) for p in points if p.curve == curve), strict=True)
            power = slope(values, costs)
            rows += [(curve, measure, f"{v:g}", f"{c:.4g}", f"{power:.2f}") for v, c in zip(values, costs, strict=True)]
            if measure == "time" and curve.endswith("a worker"):
                continue
            axis.loglog(values, costs, "o-", markersize=4, label=f"{curve}: slope {power:.2f}")
        ticks = sorted({point.value for point in points})
        cubes = label.startswith("voxels")
        axis.set_xticks(ticks, [f"{round(v ** (1 / 3))}³" if cubes else f"{v:,}" for v in ticks], fontsize=8)
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel(label)
        axis.set_ylabel(unit)
        axis.grid(alpha=0.3, which="both", linewidth=0.4)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"growth_{name}.png", dpi=110)
    with (folder / f"growth_{name}.csv").open("w", newline="", encoding="utf-8") as file:
        columns = ("curve", "measure", "value", "cost", "slope")
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", default=list(VARIABLES), choices=list(VARIABLES))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files and plots")
    options = parser.parse_args()
    for name in options.only:
        measure, label = VARIABLES[name]
        with tempfile.TemporaryDirectory() as work:
            points = []
            for point in measure(Path(work)):
                print(name, *point, flush=True)
                points.append(point)
        title = " ".join((measure.__doc__ or "").split()).rstrip(".")
        write(name, title, label, points, options.results)


if __name__ == "__main__":
    main()
