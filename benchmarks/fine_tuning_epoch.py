# SPDX-License-Identifier: Apache-2.0

"""Time an epoch of fine-tuning (unchanged train.json) without a cache, with each cache, and with MONAI's own crops.

    python benchmarks/fine_tuning_epoch.py --work DIR                       # MSD Spleen's bundle
    python benchmarks/fine_tuning_epoch.py --work DIR --bundle btcv_unet    # crops by class
    python benchmarks/fine_tuning_epoch.py --work DIR --network quickstart   # larger; or small_96: crops of 96^3

The data are phantoms of 240 x 240 x 100 voxels as .nii.gz, with the bundle's own spacing and transforms. The network
runs on the CPU in one thread. It is the tests' small one or the quickstart's, since the cost of a step decides how much
an epoch gains. Each run is a process of its own; the kinds take turns, forwards and backwards. Nothing is validated.

An epoch is timed to the end of its last step. The first epoch includes the work before it, such as filling the memory
cache. Epochs of the loader alone are timed at the end. Peak memory is that of the process after the checks before a
run. With a disk cache it includes pages of mapped entries, which the system may drop at any time. New entries lie in
the system's page cache, so a slow disk is not measured. All kinds must end with the same weights, bit by bit; otherwise
nothing is written.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIZE, SPACING = (240, 240, 100), (1.5, 1.5, 2.5)
# channels of the network, voxels of a crop along each axis
NETWORKS = {
    "small": ([4, 4, 4, 8, 8, 4], 48),
    "quickstart": ([8, 8, 16, 32, 64, 8], 48),
    "small_96": ([4, 4, 4, 8, 8, 4], 96),
}
# by kind: the knob cache, whether its folder is filled, whether MONAI's own transform draws the crops
KINDS = {
    "none": ("none", False, False),
    "memory": ("memory", False, False),
    "disk": ("disk", False, False),
    "disk, filled": ("disk", True, False),
    "memory, searching": ("memory", False, True),
}
MEASURES = ("first", "epoch", "loading")


def overrides(kind: str, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return what a user would set on the command line."""
    cache, filled, searching = KINDS[kind]
    features, size = NETWORKS[options.network]
    run = work / "run"
    settings: dict[str, Any] = {
        "bundle_root": str(run),
        "dataset_dir": str(folders(work, options.bundle)),
        "fold": ["0035" if options.bundle.startswith("btcv") else "spleen_1"],
        "cache": cache,
        "cache_dir": str(work / f"filled_{options.bundle}" if filled else run / "cache"),
        "network_def#features": features,
        "roi_size": [size] * 3,
        "epochs": options.epochs,
        "steps_per_epoch": -(-options.cases // options.volumes_per_batch),
        "validate#dataset#data": [],
        "batch_size": 2 * options.volumes_per_batch,
        "num_workers": options.num_workers,
        "warmup_steps": 0,
        "device": "cpu",
    }
    if searching:
        crop = json.loads((bundle(options) / "configs" / "train.json").read_text())["train"]["random_transforms"][0]
        monais = crop["_target_"].rpartition(".")[2].replace("Counted", "Rand")
        settings |= {"train#random_transforms#0#_target_": monais}
        settings |= {"crop_counts": {"_target_": "Identityd", "keys": "image"}}
    return settings


def bundle(options: argparse.Namespace) -> Path:
    """Folder of the bundle."""
    return ROOT / "bundles" / f"hybridmim_{options.bundle}_segmentation"


def folders(work: Path, name: str) -> Path:
    """Folder of the phantoms' data set."""
    return work / ("btcv/Training" if name.startswith("btcv") else "spleen")


def prepare(work: Path, options: argparse.Namespace) -> None:
    """Write the phantoms, one more than training cases, and fill the disk cache for the runs that start with one."""
    from hybridmim_components.phantoms import write_btcv, write_msd_spleen

    if not folders(work, options.bundle).is_dir():
        if options.bundle.startswith("btcv"):
            write_btcv(work / "btcv", options.cases + 1, 0, size=SIZE, spacing=SPACING)
        else:
            write_msd_spleen(work / "spleen", options.cases + 1, 0, size=SIZE, spacing=SPACING)
    if "disk, filled" in options.kinds and not (work / f"filled_{options.bundle}").is_dir():
        one(work, "disk, filled", options)


class Clock:
    """Clock of wall and CPU time between calls, including the time of finished child processes."""

    def __init__(self) -> None:
        self.last = self._now()

    def _now(self) -> tuple[float, float]:
        times = os.times()
        return time.monotonic(), times.user + times.system + times.children_user + times.children_system

    def lap(self) -> tuple[float, float]:
        """Return the seconds of wall and CPU time since the last call."""
        before, self.last = self.last, self._now()
        return self.last[0] - before[0], self.last[1] - before[1]


def run_once(kind: str, work: Path, options: argparse.Namespace) -> dict[str, float | str]:
    """Train for some epochs, load data for as many, and return the figures of this process."""
    import torch
    from ignite.engine import Events
    from monai.bundle import ConfigWorkflow

    torch.set_num_threads(1)
    shutil.rmtree(work / "run", ignore_errors=True)
    config = str(bundle(options) / "configs" / "train.json")
    workflow = ConfigWorkflow(config, workflow_type="train", logging_file=False, **overrides(kind, work, options))
    workflow.initialize()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    clock, laps, ends = Clock(), [], []
    trainer = workflow.trainer
    trainer.add_event_handler(Events.EPOCH_STARTED(lambda _, epoch: epoch > 1), lambda: clock.lap())
    last = Events.ITERATION_COMPLETED(lambda engine, number: number % engine.state.epoch_length == 0)
    trainer.add_event_handler(last, lambda: laps.append(clock.lap()))
    trainer.add_event_handler(last, lambda: ends.append(peak_gib()))
    workflow.run()
    loader = workflow.parser.get_parsed_content("train#dataloader")
    loading = []
    for epoch in range(1, options.epochs + 1):
        loader.begin(epoch)
        clock.lap()
        assert len(list(map(type, loader))) == len(loader)
        loading.append(clock.lap())
    weights = hashlib.sha256()
    for tensor in workflow.network_def.state_dict().values():
        weights.update(tensor.numpy().tobytes())
    figures: dict[str, float | str] = {"kind": kind, "peak_gib": max(ends), "weights": weights.hexdigest()}
    for measure, values in (("first", laps[:1]), ("epoch", laps[1:]), ("loading", loading)):
        for i, unit in enumerate(("wall_s", "cpu_s")):
            figures[f"{measure}_{unit}"] = statistics.median(value[i] for value in values)
    return figures


def peak_gib() -> float:
    """Return the most memory that this process has held since its peak was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def one(work: Path, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Call :func:`run_once` in a process of its own."""
    command = [sys.executable, __file__, "--work", str(work), "--one", kind, "--bundle", options.bundle]
    command += ["--network", options.network, "--epochs", str(options.epochs), "--cases", str(options.cases)]
    command += ["--volumes_per_batch", str(options.volumes_per_batch), "--num_workers", str(options.num_workers)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        sys.exit(f"error: {kind} failed:\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def report(rows: list[dict[str, Any]], kinds: list[str], folder: Path, name: str) -> None:
    """Write every run as CSV, and the medians and their gain over no cache as a table and a plot."""
    if len({row["weights"] for row in rows}) != 1:
        sys.exit(f"error: not all runs end with the same weights: {[(row['kind'], row['weights']) for row in rows]}")
    folder.mkdir(parents=True, exist_ok=True)
    measures = [*(f"{measure}_{unit}" for unit in ("wall_s", "cpu_s") for measure in MEASURES), "peak_gib"]
    with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["round", "kind", *measures], lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    median = {k: {m: statistics.median(row[m] for row in rows if row["kind"] == k) for m in measures} for k in kinds}
    lines = ["| | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for measure in measures:
        cells = [f"{median[k][measure]:.3f} ({median['none'][measure] / median[k][measure]:.1f})" for k in kinds]
        lines.append(f"| {measure} | " + " | ".join(cells) + " |")
    (folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    draw(median, folder / f"{name}.png")


def draw(median: dict[str, dict[str, float]], path: Path) -> None:
    """Plot the seconds of the three measures, and the memory."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), layout="constrained")
    titles = ["first epoch, s (filling the cache)", "later epoch, s", "loading of a later epoch, s", "peak memory, GiB"]
    label: Callable[[str], str] = lambda kind: kind.replace(", ", ",\n")  # noqa: E731
    for axis, measure, title in zip(axes, [*(f"{m}_wall_s" for m in MEASURES), "peak_gib"], titles, strict=True):
        colours = ["tab:gray" if kind == "none" or "searching" in kind else "tab:blue" for kind in median]
        bars = axis.barh([label(kind) for kind in median], [of[measure] for of in median.values()], color=colours)
        axis.bar_label(bars, fmt="%.3g")
        axis.invert_yaxis()
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.2)
    for axis in axes[1:]:
        axis.set_yticklabels([])
    figure.savefig(path, dpi=80)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for phantoms, caches and runs")
    parser.add_argument("--bundle", choices=["msd_spleen_unet", "btcv_unet"], default="msd_spleen_unet")
    parser.add_argument("--network", choices=list(NETWORKS), default="small")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="with none among them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3, help="of a run, two or more")
    parser.add_argument("--cases", type=int, default=4, help="training cases")
    parser.add_argument("--volumes_per_batch", type=int, default=2)
    parser.add_argument("--num_workers", type=int, default=0)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--one", choices=list(KINDS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    work = options.work.resolve()
    if options.one:
        print(json.dumps(run_once(options.one, work, options)))
        return
    if "none" not in options.kinds or options.epochs < 2:
        parser.error("--kinds must have none among them, and --epochs be 2 or more")
    work.mkdir(parents=True, exist_ok=True)
    prepare(work, options)
    rows = []
    for number in range(options.rounds):
        for kind in options.kinds if number % 2 == 0 else options.kinds[::-1]:
            rows.append({"round": number + 1, **one(work, kind, options)})
            print(rows[-1], flush=True)
    report(rows, options.kinds, options.results, f"fine_tuning_epoch_{options.bundle}_{options.network}")


if __name__ == "__main__":
    main()
