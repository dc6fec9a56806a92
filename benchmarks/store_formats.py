# SPDX-License-Identifier: Apache-2.0

"""Compare formats for the volumes and for the index of a prepared store.

    pip install blosc2 && python benchmarks/store_formats.py --image /scans/ct.nii.gz --output benchmarks/results

Volumes: one CT, pre-processed as for the MSD Spleen bundle, is stored as .b2nd of blosc2 and as Zarr v3 with sharding.
Zarr v3 is read in two ways, by zarr itself and directly, by the places of the chunks in the shard. Index: the script
reads what a start with 100,000 volumes needs, that is the fingerprints of all and one row. The candidates take turns;
time is the median CPU time of this one process. The script writes store_formats.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Row = tuple[str, str, float, float]


def volume_candidates(voxels: np.ndarray, folder: Path, size: int) -> dict[str, tuple[int, Callable]]:
    """Return the bytes of each format, and a function that reads a crop from it."""
    import blosc2
    import zarr
    from zarr.codecs import BloscCodec

    from hybridmim_components.store.encoding import SHARD, encode_volume, with_attributes
    from hybridmim_components.store.places import StorePlace
    from hybridmim_components.store.shards import open_shard

    background = int(voxels.min())
    place = StorePlace(folder)
    metadata, shard = encode_volume(voxels, background)
    place.write("ours/zarr.json", with_attributes(metadata, {}))
    place.write(f"ours/{SHARD}", shard)

    def box(start: list[int]) -> tuple[slice, ...]:
        return (slice(None), *(slice(first, first + size) for first in start))

    def ours(start: list[int]) -> np.ndarray:
        out = np.empty((1, size, size, size), np.int16)
        with open_shard(place, "ours", voxels.shape, background) as reader:
            reader.read_box(start, out)
        return out

    found: dict[str, tuple[int, Callable]] = {
        "Zarr v3, zstd, by the shard's index": (len(shard), ours),
        "Zarr v3, zstd, by zarr": (len(shard), lambda start: zarr.open_array(folder / "ours", mode="r")[box(start)]),
    }
    # larger chunks, since zarr's own time grows with their number
    padded = tuple(-(-n // 64) * 64 for n in voxels.shape[1:])
    compressor = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=2)
    kind: Any = {"chunks": (1, 64, 64, 64), "shards": (1, *padded), "compressors": compressor}
    zarr.create_array(folder / "large", shape=voxels.shape, dtype="int16", fill_value=background, **kind)[:] = voxels
    found["Zarr v3, zstd, by zarr, chunks of 64"] = (
        sum(file.stat().st_size for file in (folder / "large").rglob("*") if file.is_file()),
        lambda start: zarr.open_array(folder / "large", mode="r")[box(start)],
    )
    for codec in ("ZSTD", "LZ4"):
        name = str(folder / f"{codec}.b2nd")
        settings = {"codec": blosc2.Codec[codec], "clevel": 3, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1}
        shape = {"chunks": (1, 128, 128, 128), "blocks": (1, 32, 32, 32)}
        blosc2.asarray(voxels, urlpath=name, mode="w", cparams={**settings, "typesize": 2}, **shape)

        def read(start: list[int], name: str = name) -> np.ndarray:
            return blosc2.open(name, mode="r", dparams={"nthreads": 1}, mmap_mode="r")[box(start)]

        found[f"blosc2, {codec.lower()}"] = (os.path.getsize(name), read)
    return found


def index_candidates(folder: Path, number: int) -> dict[str, tuple[int, Callable]]:
    """Return the bytes of each format, and a function that reads all fingerprints and one row from it."""
    from hybridmim_components.store.index import row_type

    table = np.zeros(number, row_type(1, 100))
    table["fingerprints"] = np.array([os.urandom(32).hex().encode() for _ in range(number)])[:, None]
    table["name"] = [f"{i:016x}" for i in range(number)]
    table["source"] = [f"/data/corpus/patient_{i:06d}/study_1/series_2/image.nii.gz" for i in range(number)]
    np.save(folder / "index.npy", table)
    np.savez(folder / "index.npz", **{name: table[name] for name in table.dtype.names or ()})
    names = table.dtype.names or ()
    plain = [json.dumps(dict(zip(names, row.item(), strict=True)), default=_plain) for row in table]
    (folder / "index.jsonl").write_text("\n".join(plain))
    with sqlite3.connect(folder / "index.sqlite") as database:
        database.execute("create table volumes (row integer primary key, fingerprint text, record text)")
        values = ((i, table[i]["fingerprints"][0].decode(), text) for i, text in enumerate(plain))
        database.executemany("insert into volumes values (?, ?, ?)", values)

    def npy(row: int) -> tuple[set, Any]:
        found = np.load(folder / "index.npy", mmap_mode="r")
        return set(found["fingerprints"].ravel().tolist()), found[row]

    def npz(row: int) -> tuple[set, Any]:
        found = np.load(folder / "index.npz")
        return set(found["fingerprints"].ravel().tolist()), {name: found[name][row] for name in found.files}

    def jsonl(row: int) -> tuple[set, Any]:
        with open(folder / "index.jsonl") as file:
            found = [json.loads(line) for line in file]
        return {entry["fingerprints"][0] for entry in found}, found[row]

    def sqlite(row: int) -> tuple[set, Any]:
        database = sqlite3.connect(folder / "index.sqlite")
        digests = {digest for (digest,) in database.execute("select fingerprint from volumes")}
        (record,) = database.execute("select record from volumes where row = ?", (row,)).fetchone()
        return digests, json.loads(record)

    readers = {"index.npy": npy, "index.npz": npz, "index.jsonl": jsonl, "index.sqlite": sqlite}
    return {name: ((folder / name).stat().st_size, reader) for name, reader in readers.items()}


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else np.asarray(value).tolist()


def timed(what: str, found: Mapping[str, tuple[int, Callable]], arguments: list[Any]) -> list[Row]:
    """Return the bytes and the median CPU milliseconds of each candidate; the candidates take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for argument in arguments:
        for name, (_, read) in found.items():
            start = time.process_time()
            read(argument)
            seconds[name].append(time.process_time() - start)
    return [(what, n, found[n][0] / 2**20, 1000 * statistics.median(taken)) for n, taken in seconds.items()]


def main() -> None:
    """Command line."""
    from monai.transforms import Spacingd

    from hybridmim_components.data import read_volume
    from hybridmim_components.store import StoreSettings

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--image", required=True, help="a CT")
    parser.add_argument("--size", type=int, default=96, help="voxels of a crop")
    parser.add_argument("--number", type=int, default=100_000, help="volumes of the index")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    settings = StoreSettings((1.5, 1.5, 2.0), (-57, 164))
    image = Spacingd("image", settings.spacing)({"image": read_volume(options.image)})["image"]
    voxels = settings.stored(np.asarray(image))
    generator = np.random.default_rng(0)
    limits = [max(1, n - options.size + 1) for n in voxels.shape[1:]]
    starts = [[int(generator.integers(n)) for n in limits] for _ in range(options.rounds)]
    with tempfile.TemporaryDirectory() as name:
        rows = timed("volume, a crop", volume_candidates(voxels, Path(name), options.size), starts)
        rows += timed("index, a start", index_candidates(Path(name), options.number), [5, 50, 500])
    options.output.mkdir(parents=True, exist_ok=True)
    with open(options.output / "store_formats.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["what", "format", "MiB", "CPU ms"])
        writer.writerows((what, name, f"{size:.4g}", f"{taken:.4g}") for what, name, size, taken in rows)
    for what, name, size, taken in rows:
        print(f"{what:16s} {name:40s} {size:8.2f} MiB {taken:9.2f} ms")


if __name__ == "__main__":
    main()
