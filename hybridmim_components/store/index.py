# SPDX-License-Identifier: Apache-2.0

"""The index of a store: one row per volume, in two .npy files that are mapped into memory instead of being read."""

from __future__ import annotations

import base64
import importlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hybridmim_components.store.encoding import METADATA, chunk_grid
from hybridmim_components.store.places import StorePlace
from hybridmim_components.store.settings import StoreSettings

__all__ = ["PreparedStore", "open_store", "read_settings", "records", "require_libraries", "write_index"]

ATTRIBUTE = "hybridmim"  # key of this package's data in zarr.json
FORMAT = 1
ROWS, FOREGROUND = "index.npy", "foreground.npy"


class PreparedStore:
    """Store that is open for reading, with its settings and the index of its volumes.

    Args:
        place: where the store lies.
        settings: settings of its pre-processing.

    Attributes:
        rows: structured array, one row per volume: ``name``; ``shape`` (C, H, W, D); ``source``, the files of the
            image, one per line; ``source_spacing`` (mm); ``intensity``, the minimum, maximum, mean and standard
            deviation of each channel of the source; ``box``, first voxel of the foreground and one past its last
            voxel; ``fingerprints``, one per channel; ``bytes`` and ``checksum`` (SHA-256) of its shard;
            ``foreground_at``, where the counts of :meth:`foreground` begin.

    Raises:
        ValueError: when the store has no index.

    Example:
        >>> from hybridmim_components.phantoms import write_unlabelled
        >>> from hybridmim_components.store import prepare_store
        >>> _ = write_unlabelled("volumes", 2, size=(16, 16, 16))
        >>> settings = StoreSettings(spacing=(3, 3, 4), intensity_range=(-57, 164))
        >>> _ = prepare_store("volumes", "store", settings, num_workers=0)
        >>> store = PreparedStore(StorePlace("store"), settings)
        >>> len(store.rows), bool(0 < store.foreground(0).sum() < store.rows[0]["shape"].prod())
        (2, True)
    """

    def __init__(self, place: StorePlace, settings: StoreSettings) -> None:
        self.place = place
        self.settings = settings
        self._map()

    def _map(self) -> None:
        try:
            self.rows, self._foreground = self.place.array(ROWS), self.place.array(FOREGROUND)
        except FileNotFoundError as error:
            raise ValueError(
                f"the store {self.place.url} has no index: repeat the command that prepared it until it ends without "
                "an error"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"place": self.place, "settings": self.settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    def foreground(self, row: int) -> np.ndarray:
        """Return the number of foreground voxels in each chunk of a volume, flat, in the order of its three axes."""
        first = int(self.rows[row]["foreground_at"])
        return self._foreground[first : first + int(np.prod(chunk_grid(self.rows[row]["shape"])[1:]))]


def open_store(
    url: str | Path | None,
    spacing: Sequence[float],
    intensity_range: Sequence[float] | None = None,
    modalities: Sequence[str] | None = None,
    clip_percentiles: Sequence[float] | None = None,
) -> PreparedStore:
    """Open a store for a run with these settings.

    Args:
        url: folder or fsspec URL of the store.
        spacing: spacing of the run, mm.
        intensity_range: intensity range of the run, HU; for CT.
        modalities: modalities of the run; for MRI.
        clip_percentiles: clip percentiles of the run; for MRI with one channel.

    Raises:
        ValueError: when there is no store or no index, a package that reads it is missing, or a setting of the run
            differs from the store's. The message names it.

    Example:
        >>> from hybridmim_components.phantoms import write_unlabelled
        >>> from hybridmim_components.store import prepare_store
        >>> _ = write_unlabelled("volumes", 2, size=(16, 16, 16))
        >>> settings = {"spacing": (3, 3, 4), "intensity_range": (-57, 164)}
        >>> _ = prepare_store("volumes", "store", StoreSettings(**settings), num_workers=0)
        >>> len(open_store("store", **settings).rows)
        2
        >>> open_store("store", spacing=(3, 3, 4), intensity_range=(0, 164))
        Traceback (most recent call last):
        ValueError: the store store was prepared with other settings, the run has intensity_range [0, 164] instead of
        [-57, 164]: set the same in both, or prepare another store
    """
    if not url:
        raise ValueError("cache 'store' needs store, what `python -m hybridmim_components prepare` wrote, got none")
    require_libraries("numcodecs", "google_crc32c")
    place = StorePlace(url)
    settings = read_settings(place)
    if settings is None:
        raise ValueError(f"store must be what `python -m hybridmim_components prepare` wrote, got {url}")
    differences = StoreSettings(spacing, intensity_range, modalities, clip_percentiles).differences(settings.as_dict())
    if differences:
        raise ValueError(
            f"the store {url} was prepared with other settings, the run has {'; '.join(differences)}: "
            "set the same in both, or prepare another store"
        )
    return PreparedStore(place, settings)


def require_libraries(*names: str) -> None:
    """Require that the packages that read or write a store are installed.

    Raises:
        ValueError: when one is missing; tells what to install.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"a prepared store needs {name}, which is not installed: pip install 'hybridmim-components[store]', "
                "or pip install 'zarr>=3.1'"
            ) from error


def read_settings(place: StorePlace) -> StoreSettings | None:
    """Read the settings of a store. Returns None if there is no store.

    Raises:
        ValueError: when the store is of another format.
    """
    content = place.read(METADATA)
    own = json.loads(content)["attributes"].get(ATTRIBUTE, {}) if content else {}
    if own.get("format", FORMAT) != FORMAT:
        raise ValueError(f"store must be of format {FORMAT}, got {own['format']} in {place.url}: update this package")
    return StoreSettings(**own["settings"]) if own else None


def write_settings(place: StorePlace, settings: StoreSettings) -> None:
    """Create a store, which is a Zarr group with its settings."""
    own = {ATTRIBUTE: {"format": FORMAT, "settings": settings.as_dict()}}
    place.write(METADATA, json.dumps({"zarr_format": 3, "node_type": "group", "attributes": own}).encode())


def records(place: StorePlace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and record of each volume that was written completely."""
    for name in place.names():
        content = place.read(f"{name}/{METADATA}")
        if content is not None:
            metadata = json.loads(content)
            yield name, {**metadata["attributes"][ATTRIBUTE], "shape": metadata["shape"]}


def write_index(place: StorePlace, settings: StoreSettings) -> int:
    """Collect the records of all volumes into the index.

    Returns:
        Number of volumes.
    """
    rows, counts, at = [], [], 0
    for name, record in records(place):
        foreground = np.frombuffer(base64.b64decode(record["foreground"]), "<u2")
        rows.append(_row(name, record, at))
        counts.append(foreground)
        at += len(foreground)
    channels = settings.channels
    longest = max((len(row[2]) for row in rows), default=1)
    table = np.array(rows, row_type(channels, longest))
    place.remove(ROWS)  # so that old rows never lie beside new counts
    place.write(FOREGROUND, _npy(np.concatenate([np.empty(0, np.uint16), *counts])))
    place.write(ROWS, _npy(table))
    return len(table)


def row_type(channels: int, longest_source: int) -> np.dtype:
    """Return the type of a row of the index."""
    fields: list[tuple[Any, ...]] = [
        ("name", "S16"),
        ("shape", "i4", 4),
        ("source", f"S{longest_source}"),
        ("source_spacing", "f4", 3),
        ("intensity", "f4", (channels, 4)),
        ("box", "i4", (2, 3)),
        ("fingerprints", "S64", (channels,)),
        ("bytes", "i8"),
        ("checksum", "S64"),
        ("foreground_at", "i8"),
    ]
    return np.dtype(fields)


def _row(name: str, record: Mapping[str, Any], foreground_at: int) -> tuple[Any, ...]:
    return (
        name.encode(),
        record["shape"],
        "\n".join(record["source"]).encode(),
        record["source_spacing"],
        record["intensity"],
        record["box"],
        record["fingerprints"],
        record["bytes"],
        record["checksum"],
        foreground_at,
    )


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
