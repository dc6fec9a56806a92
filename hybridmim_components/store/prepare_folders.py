# SPDX-License-Identifier: Apache-2.0

"""The command ``prepare``, which puts the volumes below folders into a store in parallel. A repeat does the rest."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hybridmim_components.data.doubts import warn_of
from hybridmim_components.data.unlabelled import find_volumes
from hybridmim_components.data.volumes import Image, image_files, quieten_readers
from hybridmim_components.store.encoding import METADATA, SHARD
from hybridmim_components.store.index import (
    ROWS,
    read_settings,
    records,
    require_libraries,
    write_index,
    write_settings,
)
from hybridmim_components.store.places import StorePlace
from hybridmim_components.store.prepare_volume import prepare_volume, source_state, volume_name
from hybridmim_components.store.settings import StoreSettings
from hybridmim_components.system.folder_lock import FolderLock

__all__ = ["prepare_store"]

logger = logging.getLogger(__name__)
_Outcome = tuple[Image, list[str], str]  # the volume, what is unusual about it, and why it cannot be used


def prepare_store(
    images: str | Path | Sequence[str | Path],
    store: str | Path,
    settings: StoreSettings,
    num_workers: int = 2,
    skip_unreadable: bool = False,
    verify: bool = False,
    part: str | None = None,
) -> int:
    """Pre-process volumes into a store, and index all volumes in the store.

    Several machines can share the work by ``part``. Each machine prepares its share of the volumes and writes no index.
    Afterwards, one command without ``part`` does what is left and writes the index. The result is the same store that
    one machine would make.

    A volume that is already in the store is left as it is, unless the size or modification time of its source has
    changed. A run that is killed loses only the volumes that it was working on, and the next run continues.

    Args:
        images: folders, see :func:`.find_volumes`.
        store: folder or fsspec URL.
        settings: settings of the pre-processing. An existing store must have been made with the same settings.
        num_workers: number of processes; 0: this process alone.
        skip_unreadable: log unusable volumes and leave them out, instead of raising.
        verify: compare each volume in the store with its checksum, and prepare it anew if it differs.
        part: such as ``2/4``, the second of four shares. Parts need no lock, since each volume is in one of them only.

    Returns:
        Number of volumes in the store or, with ``part``, in its share.

    Raises:
        FileNotFoundError: when a folder does not exist or holds no volume.
        OSError: when the store is a folder that cannot be written to, or into which another process prepares volumes.
        ValueError: when part is not a share, the store was made with other settings, a package is missing, a process
            died, or volumes are unusable. In the last case, the other volumes are done, but the index is not renewed.

    Example:
        >>> from hybridmim_components.phantoms import write_unlabelled
        >>> _ = write_unlabelled("volumes", 2, size=(16, 16, 16))
        >>> settings = StoreSettings(spacing=(3, 3, 4), intensity_range=(-57, 164))
        >>> prepare_store("volumes", "store", settings, num_workers=0)
        2
        >>> other = StoreSettings(spacing=(3, 3, 4), intensity_range=(-175, 250))
        >>> prepare_store("volumes", "store", other, num_workers=0)
        Traceback (most recent call last):
        ValueError: the store store was prepared with other settings, now intensity_range [-175, 250] instead of
        [-57, 164]: set the same, or name another store
    """
    require_libraries("zarr", "numcodecs", "google_crc32c")
    folders = [images] if isinstance(images, (str, Path)) else images
    for folder in folders:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"images must be existing folders, got {folder}")
    place = StorePlace(store)
    share = _share(part)
    if place.names() and read_settings(place) is None:  # in this order, since another part may be making the store
        raise ValueError(f"store must be a prepared store or an empty folder, got {store}, which holds files")
    lock = FolderLock(store=None if part else place.folder)  # an object store has no locks
    try:
        return _fill(place, folders, settings, num_workers, skip_unreadable, verify, share)
    finally:
        lock.release()


def _fill(
    place: StorePlace,
    folders: Sequence[str | Path],
    settings: StoreSettings,
    num_workers: int,
    skip_unreadable: bool,
    verify: bool,
    share: tuple[int, int],
) -> int:
    _settle(place, settings)
    number, of = share
    volumes = find_volumes(folders, settings.modalities, skip_unreadable)
    volumes = [image for image in volumes if _place_of(volume_name(image)) % of == number - 1]
    known = {name: (record["state"], record["checksum"]) for name, record in records(place)}
    todo = _left(place, known, volumes, verify)
    if len(todo) < len(volumes):
        logger.info("%d of %d volume(s) are in %s already", len(volumes) - len(todo), len(volumes), place.url)
    if any(volume_name(image) in known for image in todo):
        # it lists changed volumes as they were before, also if this command does not come to its end
        place.remove(ROWS)
    prepare = partial(_prepare, place, settings)
    errors, unusual = [], []
    for image, doubts, error in tqdm(_run(prepare, todo, num_workers), "preparing", len(todo), unit="vol"):
        errors += [error] if error else []
        unusual += [f"{', '.join(image_files(image))}: {doubt}" for doubt in doubts]
    warn_of(sorted(unusual))
    if errors:
        text = f"{len(errors)} of {len(volumes)} volume(s) cannot be used:\n  " + "\n  ".join(sorted(errors))
        if not skip_unreadable:
            raise ValueError(f"{text}\nrepair or remove them, or add --skip_unreadable; the others are done")
        logger.warning("Skipped, since skip_unreadable is set: %s", text)
    return write_index(place, settings) if of == 1 else len(volumes)


def _share(part: str | None) -> tuple[int, int]:
    """Return the number of a part and the number of all parts, from a text such as 2/4."""
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", part or "1/1")
    number, of = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= of:
        raise ValueError(f"part must be a share such as 2/4, the second of four, got {part}")
    return number, of


def _place_of(name: str) -> int:
    """Return a number that follows from the name alone, so that all parts draw the same shares."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16)


def _settle(place: StorePlace, settings: StoreSettings) -> None:
    """Create the store, or check that it was made with the same settings."""
    existing = read_settings(place)
    if existing is None:
        write_settings(place, settings)
        return
    differences = settings.differences(existing.as_dict())
    if differences:
        raise ValueError(
            f"the store {place.url} was prepared with other settings, now {'; '.join(differences)}: "
            "set the same, or name another store"
        )


def _left(
    place: StorePlace, known: Mapping[str, tuple[Any, str]], volumes: Sequence[Image], verify: bool
) -> list[Image]:
    """Return the volumes that are new or changed, or, if ``verify`` is set, damaged in the store."""
    left = []
    for image in volumes:
        name = volume_name(image)
        state, checksum = known.get(name, (None, ""))
        if state != source_state(image) or (verify and checksum != _checksum(place, name)):
            left.append(image)
    return left


def _checksum(place: StorePlace, name: str) -> str:
    return hashlib.sha256(place.read(f"{name}/{SHARD}") or b"").hexdigest()


def _run(prepare: partial[_Outcome], images: Sequence[Image], num_workers: int) -> Iterator[_Outcome]:
    """Yield the outcome of each volume, in the order in which they are done."""
    if num_workers < 1 or len(images) < 2:
        yield from map(prepare, images)
        return
    # spawned, since threads of torch and ITK do not survive a fork
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_workers, len(images)), context, initializer=quieten_readers) as pool:
        jobs = [pool.submit(prepare, image) for image in images]
        try:
            for job in as_completed(jobs):
                yield job.result()
        except BrokenProcessPool as error:
            raise ValueError(
                f"one of {num_workers} processes died, most likely for lack of memory: repeat the command with fewer "
                "num_workers; it goes on where it stopped"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare(place: StorePlace, settings: StoreSettings, image: Image) -> _Outcome:
    try:
        return image, prepare_volume(image, place, settings), ""
    except (ValueError, FileNotFoundError) as error:
        fault = str(error)
    except (MemoryError, RuntimeError) as error:  # torch reports a lack of memory as a RuntimeError
        fault = f"cannot prepare {', '.join(image_files(image))}: {error}"
    place.remove(f"{volume_name(image)}/{METADATA}")  # the store may hold it as it was before
    return image, [], fault
