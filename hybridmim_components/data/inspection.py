# SPDX-License-Identifier: Apache-2.0

"""Inspection of every volume once before training, with a cache of the results."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

import ignite.distributed as idist

from hybridmim_components.data.doubts import doubts_of_image, doubts_of_label, warn_of
from hybridmim_components.data.volumes import VolumeRules, check_label, fingerprint, image_files, read_volume
from hybridmim_components.system.files import file_state, read_json_object, write_text

__all__ = ["inspect_volumes"]

logger = logging.getLogger(__name__)
_Pair = tuple[tuple[str, ...], str]  # files of the image, and the file of its label or ""
_Found = tuple[list[str], list[str]]  # fingerprints, and doubts
_UNUSABLE = "{} of {} volume(s) cannot be used:\n  {}"


def inspect_volumes(
    data: Iterable[Mapping[str, Any]],
    cache_file: str | Path | None = None,
    num_workers: int = 2,
    rules: VolumeRules | None = None,
    skip_unreadable: bool = False,
) -> dict[tuple[str, ...], list[str]]:
    """Read image and label of every item before a long run, and fingerprint the image.

    Anything unusual is logged as a warning, see :mod:`.doubts`.

    Args:
        data: items with ``image`` (a path, or one per modality) and, if there is one, ``label``.
        cache_file: JSON file that keeps the results, by path, size and modification time.
        num_workers: number of threads.
        rules: requirements on the volumes; default: one channel and any label.
        skip_unreadable: log unusable volumes and leave them out, instead of raising. ``left_out.json`` beside the cache
            names them.

    Returns:
        Fingerprints of each image, one per channel, by its files, see :func:`.volumes.image_files`.

    Raises:
        ValueError: when volumes are unusable; names every such file and what is wrong with it.

    Example:
        >>> nib.save(nib.Nifti1Image(np.arange(64.0).reshape(4, 4, 4), np.eye(4)), "scan.nii")
        >>> nib.save(nib.Nifti1Image(np.zeros((4, 4, 4)), np.eye(4)), "empty.nii")
        >>> [(files, len(digests)) for files, digests in inspect_volumes([{"image": "scan.nii"}]).items()]
        [(('scan.nii',), 1)]
        >>> inspect_volumes([{"image": "scan.nii"}, {"image": "empty.nii"}])
        Traceback (most recent call last):
        ValueError: 1 of 2 volume(s) cannot be used:
          image must hold more than one value, got 0 in every voxel of empty.nii
    """
    if idist.get_rank() > 0 and cache_file is not None:
        idist.barrier()  # rank 0 reads for all
    found = _inspect_all(data, cache_file, num_workers, rules or VolumeRules(), skip_unreadable)
    if idist.get_rank() == 0 and cache_file is not None and idist.get_world_size() > 1:
        idist.barrier()
    return found


def _inspect_all(
    data: Iterable[Mapping[str, Any]],
    cache_file: str | Path | None,
    num_workers: int,
    rules: VolumeRules,
    skip_unreadable: bool,
) -> dict[tuple[str, ...], list[str]]:
    pairs: list[_Pair] = sorted({(image_files(item["image"]), str(item.get("label", ""))) for item in data})
    cache = _read_cache(cache_file)
    keys = {pair: json.dumps([*pair, astuple(rules)], default=list) for pair in pairs}
    states = {pair: [file_state(path) for path in (*pair[0], pair[1]) if path] for pair in pairs}
    same = [p for p in pairs if keys[p] in cache and cache[keys[p]][0] == states[p] and all(states[p])]
    known: dict[_Pair, _Found] = {p: (cache[keys[p]][1], cache[keys[p]][2]) for p in same}
    unknown = [p for p in pairs if p not in known]
    if unknown:
        logger.info("Reading %d volume(s) to check and fingerprint them", len(unknown))
    errors = []
    with ThreadPoolExecutor(max_workers=max(1, num_workers)) as pool:
        for pair, (found, error) in zip(unknown, pool.map(partial(_inspect, rules), unknown), strict=True):
            if error:
                errors.append(error)
            else:
                known[pair] = found
    if cache_file is not None and unknown:
        entries = {keys[pair]: [states[pair], *found] for pair, found in known.items()}
        write_text(cache_file, json.dumps({**cache, **entries}, indent=1))
    if errors:
        text = _UNUSABLE.format(len(errors), len(pairs), "\n  ".join(errors))
        if not skip_unreadable:
            raise ValueError(text)
        logger.warning("Left out: %s", text)
    if cache_file is not None:
        write_text(Path(cache_file).with_name("left_out.json"), json.dumps({"left_out": errors}, indent=1))
    warn_of([f"{', '.join(files)}: {doubt}" for (files, _), (_, doubts) in sorted(known.items()) for doubt in doubts])
    return {files: digests for (files, _), (digests, _) in known.items()}


def _inspect(rules: VolumeRules, pair: _Pair) -> tuple[_Found, str]:
    """Return the fingerprints of the image's channels and the doubts, or what is wrong with image or label."""
    files, label = pair
    try:
        image = read_volume(files, rules=rules)
        doubts = doubts_of_image(image, files, rules)
        if label:
            doubts += doubts_of_label(check_label(image, label, rules.label_values))
        return ([fingerprint(image[channel : channel + 1]) for channel in range(len(image))], doubts), ""
    except (ValueError, FileNotFoundError) as error:
        return ([], []), str(error)
    except (MemoryError, RuntimeError) as error:  # torch reports a lack of memory as a RuntimeError
        return ([], []), f"cannot read {', '.join(files)}: {error}"


def _read_cache(cache_file: str | Path | None) -> dict[str, Any]:
    if cache_file is None or not Path(cache_file).is_file():
        return {}
    try:
        found = read_json_object(cache_file)
    except ValueError as error:
        logger.warning("%s is written anew, since it cannot be used: %s", cache_file, error)
        return {}
    return {key: entry for key, entry in found.items() if _is_entry(entry)}


def _is_entry(entry: Any) -> bool:
    """Return whether an entry of the cache holds states of files, fingerprints and doubts."""
    if not isinstance(entry, list) or len(entry) != 3 or not all(isinstance(part, list) for part in entry[1:]):
        return False
    return bool(entry[1]) and all(isinstance(text, str) for text in (*entry[1], *entry[2]))
