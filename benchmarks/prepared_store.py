# SPDX-License-Identifier: Apache-2.0

"""Compare what a prepared store, plain files and the caches deliver on one core.

    python benchmarks/prepared_store.py --images /scans --output benchmarks/results   # without --images: phantoms

The sources deliver crops of 96^3, two of a volume at a time as in pre-training, with the pre-processing of the MSD
Spleen bundle. They take turns, so that a busy machine slows all of them. Time is the CPU time of this one process. The
index of many volumes is simulated: it repeats the rows of the store with other fingerprints. The script writes
prepared_store.csv and .png.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles" / "hybridmim_msd_spleen_unet_segmentation"
# for a step of the released recipe at 96^3 and batch size 1, counted on the networks
GFLOP = {"UNet": 1800, "SwinUNETR": 720}
GPUS, PEAK_TFLOPS, UTILISATION = 8, 989, 0.4  # H100, dense bfloat16
Row = tuple[str, str, float, str]


def parsed(part: str, **settings: Any) -> Any:
    """Evaluate a part of the bundle's pretrain.json."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "pretrain.json"))
    for name, value in settings.items():
        parser[name] = value
    return parser.get_parsed_content(part)


def prepare(images: Path, store: Path) -> tuple[Any, float]:
    """Make a store with the bundle's settings; return it and the CPU seconds per volume."""
    from hybridmim_components.store import StoreSettings, open_store, prepare_store

    settings = StoreSettings(parsed("spacing"), parsed("intensity_range"))
    start = time.process_time()
    number = prepare_store(images, store, settings, num_workers=0)
    return open_store(store, **settings.as_dict()), (time.process_time() - start) / number


def crops(store: Any, work: Path, rounds: int) -> list[Row]:
    """Measure the CPU time of a crop from each source, as the median of the rounds."""
    from hybridmim_components.data import make_dataset
    from hybridmim_components.store import StoredVolumes

    volumes = StoredVolumes(store, np.arange(len(store.rows)))
    items = [{"image": volumes[i]["image"][0], "volume": i} for i in range(len(volumes))]
    transform = parsed("train#preprocessing")
    sources = {
        "plain .nii.gz": make_dataset(items, transform, "none"),
        "persistent cache": make_dataset(items, transform, "disk", work / "cache"),
        "memory cache": make_dataset(items, transform, "memory"),
        "store": make_dataset(volumes, transform, "store", roi_size=parsed("roi_size"), crops_per_volume=2),
    }
    for item in range(len(items)):
        sources["persistent cache"][item]  # filled before it is timed
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    for turn in range(rounds):
        for name, dataset in sources.items():
            start = time.process_time()
            number = len(dataset[turn % len(items)])
            seconds[name].append((time.process_time() - start) / number)
    rows: list[Row] = []
    for name, measured in seconds.items():
        median = statistics.median(measured)
        rows += [("ms per crop", name, 1000 * median, "CPU ms"), ("crops", name, 1 / median, "per CPU-second")]
        rows.append(("slowest crop", name, 1000 * max(measured), "CPU ms"))
    return rows


def sizes(store: Any) -> list[Row]:
    """Measure the store, and the same voxels uncompressed and as .nii.gz (level 1 is nibabel's, level 6 gzip's)."""
    import gzip

    import zarr

    total = {"store": 0, ".nii.gz, level 1": 0, ".nii.gz, level 6": 0, "raw int16": 0}
    for row in store.rows:
        array = np.asarray(zarr.open_array(f"{store.place.url}/{row['name'].decode()}", mode="r")[:])
        buffer = io.BytesIO()
        nib.Nifti1Image(array[0], np.eye(4)).to_stream(buffer)
        for level in (1, 6):
            total[f".nii.gz, level {level}"] += len(gzip.compress(buffer.getvalue(), level))
        total["raw int16"] += array.nbytes
        total["store"] += int(row["bytes"])
    return [("bytes", name, number / 2**20, "MiB") for name, number in total.items()]


def simulate(store: Any, folder: Path, number: int) -> Path:
    """Make a store with a long index, which repeats the rows of a small store with other fingerprints."""
    own = Path(store.place.url)
    folder.mkdir()
    shutil.copy(own / "zarr.json", folder)
    for row in store.rows:
        (folder / row["name"].decode()).symlink_to(own / row["name"].decode())
    rows = store.rows[np.arange(number) % len(store.rows)].copy()
    rows["fingerprints"] = np.array([os.urandom(32).hex().encode() for _ in range(number)])[:, None]
    counts = [store.foreground(i % len(store.rows)) for i in range(number)]  # each volume its own, as in a real index
    rows["foreground_at"] = np.cumsum([0, *map(len, counts[:-1])])
    np.save(folder / "index.npy", rows)
    np.save(folder / "foreground.npy", np.concatenate(counts))
    return folder


def start_and_draw(folder: str, draws: int) -> dict[str, float]:
    """Do what `initialize` does with a store, draw crops in a process of its own, and return time and memory."""
    from hybridmim_components.data import make_dataset, pretraining_lists
    from hybridmim_components.store import open_pool
    from hybridmim_components.workflow.preflight import check_pretraining

    settings = {name: parsed(name) for name in ("spacing", "intensity_range", "roi_size")}
    roi_size, transform = settings.pop("roi_size"), parsed("train#preprocessing")
    start = time.monotonic()
    lists = pretraining_lists("msd_spleen", "", pool=open_pool(folder, 0.1, 0, **settings))
    with tempfile.TemporaryDirectory() as output:
        volumes = check_pretraining(lists, output, batch_size=4, crops_per_volume=2, contrast_weight=0.1)
    dataset = make_dataset(volumes["training"], transform, "store", roi_size=roi_size, crops_per_volume=2)
    seconds = time.monotonic() - start
    reading, writing = os.pipe()
    child = os.fork()  # a worker of a data loader
    if child == 0:
        before = _memory()
        generator = np.random.default_rng(0)
        for _ in range(draws):
            dataset[int(generator.integers(len(dataset)))]
        after = _memory()
        os.write(writing, json.dumps({name: after[name] - before[name] for name in after}).encode())
        os._exit(0)
    os.close(writing)
    grown = json.loads(os.read(reading, 1000))
    os.waitpid(child, 0)
    return {"seconds": seconds, **grown}


def _memory() -> dict[str, float]:
    lines = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]]
    sizes = {line[0].rstrip(":"): int(line[1]) / 1024 for line in lines}
    # private: written by this process alone; mapped: read from files that all processes share
    return {"private": sizes["Private_Dirty"], "mapped": sizes["Rss"] - sizes["Anonymous"]}


def many(store: Any, work: Path, numbers: list[int], draws: int) -> list[Row]:
    """Measure start-up and a worker's memory by the number of volumes."""
    rows: list[Row] = []
    for number in numbers:
        folder = simulate(store, work / f"simulated_{number}", number)
        os.sync()  # pages of a file not yet on the disk would count as the process's own
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(start_and_draw, (str(folder), draws))
        index = sum((folder / name).stat().st_size for name in ("index.npy", "foreground.npy")) / 2**20
        rows += [
            ("start-up", f"{number} volumes", found["seconds"], "s"),
            ("a worker's own memory", f"{number} volumes", found["private"], "MiB"),
            ("mapped pages of files", f"{number} volumes", found["mapped"], "MiB"),
            ("index", f"{number} volumes", index, "MiB"),
        ]
        shutil.rmtree(folder)
    return rows


def needed(ms_per_crop: float) -> list[Row]:
    """Estimate how many crops an 8-GPU machine consumes, and how many cores deliver them."""
    rows: list[Row] = []
    for name, gflop in GFLOP.items():
        rate = GPUS * PEAK_TFLOPS * 1000 * UTILISATION / gflop
        rows += [("needed", name, rate, "crops per second"), ("cores", name, rate * ms_per_crop / 1000, "cores")]
    return rows


def draw(rows: list[Row], path: Path) -> None:
    """Plot crops per CPU-second, bytes, and memory by the number of volumes."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    panels: list[tuple[str, str, Callable[[str], str]]] = [
        ("crops", "crops of 96³ per CPU-second", str),
        ("bytes", "MiB, the same voxels", lambda name: name.replace(", level", "\nlevel")),
        ("a worker's own memory", "a worker's own memory, MiB", lambda name: f"{int(name.split()[0]):,}\nvolumes"),
    ]
    for axis, (measure, title, label) in zip(axes, panels, strict=True):
        chosen = [row for row in rows if row[0] == measure and row[1] != "raw int16"]
        colours = ["tab:blue" if row[1] == "store" or "memory" in measure else "tab:gray" for row in chosen]
        bars = axis.bar([label(row[1]).replace(" ", "\n") for row in chosen], [row[2] for row in chosen], color=colours)
        axis.bar_label(bars, fmt="%.3g")
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yscale("log")
    figure.savefig(path, dpi=80)


def phantoms(folder: Path) -> Path:
    """Write three CTs of 256 x 256 x 100 voxels."""
    from hybridmim_components.phantoms import write_msd_spleen

    return write_msd_spleen(folder, 3, 0, size=(256, 256, 100), spacing=(1.5, 1.5, 3.0)) / "imagesTr"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--images", type=Path, help="folder of CTs; default: phantoms")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each source")
    parser.add_argument("--numbers", nargs="+", type=int, default=[100, 10_000, 100_000], help="volumes to simulate")
    parser.add_argument("--draws", type=int, default=300, help="volumes that a worker draws from")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        store, seconds = prepare(options.images or phantoms(work / "phantoms"), work / "store")
        rows: list[Row] = [("prepare", "a volume", seconds, "CPU s")]
        rows += crops(store, work, options.rounds) + sizes(store)
        rows += needed(next(value for measure, what, value, _ in rows if (measure, what) == ("ms per crop", "store")))
        rows += many(store, work, options.numbers, options.draws)
    options.output.mkdir(parents=True, exist_ok=True)
    with open(options.output / "prepared_store.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["measure", "what", "value", "unit"])
        writer.writerows((measure, what, f"{value:.4g}", unit) for measure, what, value, unit in rows)
    draw(rows, options.output / "prepared_store.png")
    for measure, what, value, unit in rows:
        print(f"{measure:24s} {what:20s} {value:10.4g} {unit}")


if __name__ == "__main__":
    main()
