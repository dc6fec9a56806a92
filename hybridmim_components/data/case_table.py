# SPDX-License-Identifier: Apache-2.0

"""A table of a data set's cases with a verdict on each: what ``python -m hybridmim_components check`` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hybridmim_components.data.datasets import dataset_of, find_cases, holds_hounsfield, label_names
from hybridmim_components.data.doubts import doubts_of_image, doubts_of_label
from hybridmim_components.data.layouts import Case
from hybridmim_components.data.volumes import VolumeRules, check_label, fingerprint, image_files, read_volume

__all__ = ["CaseRow", "case_rows", "format_row"]

_WIDTHS = (24, 15, 18, 24)
_TITLES = ("case", "grid", "spacing [mm]", "intensity")


class CaseRow(NamedTuple):
    """Row of the table, for one case."""

    case_id: str
    grid: str = "-"
    """Size of the image in voxels as (R, A, S), times channels if there are several."""
    spacing: str = "-"
    intensity: str = "-"
    """Minimum to maximum of each channel."""
    labels: str = "-"
    """Number of voxels by label value."""
    problem: str = ""
    """What is wrong, with the file's name; empty for a usable case."""
    doubts: tuple[str, ...] = ()
    """What is unusual about a usable case, each with its value and the usual range."""


def case_rows(
    dataset: str, dataset_dir: str | Path, modalities: Sequence[str] | None = None, num_workers: int = 2
) -> Iterator[CaseRow]:
    """Read image and label of every case of a data set, describe the case, and tell whether it can be used.

    Args:
        dataset: name of the data set, see :func:`.datasets.dataset_of`.
        dataset_dir: folder of the unpacked download.
        modalities: sequences to use, for a data set that has several; None: all.
        num_workers: number of threads that read.

    Yields:
        One row per case as soon as it is read, then one per incomplete case, then one per doubt about the folder.

    Raises:
        ValueError: when the data set or a modality is unknown, or dataset.json has no labels.
        FileNotFoundError: when the folder, or a part of its layout, does not exist.
    """
    known, found = dataset_of(dataset), find_cases(dataset, dataset_dir, modalities)
    names = label_names(dataset, dataset_dir)
    rules = VolumeRules(
        channels=len(modalities or known.modalities) or 1,
        zero_background=known.zero_background,
        hounsfield=holds_hounsfield(dataset, dataset_dir),
        label_values=sorted(names),
    )
    first: dict[str, str] = {}  # name of a case by its fingerprint
    with ThreadPoolExecutor(max_workers=max(1, num_workers)) as pool:
        for row, digest in pool.map(partial(_row, rules), found.cases):
            other = first.setdefault(digest, row.case_id)
            twice = (
                (f"the image is that of {other}, usual is one case for each",)
                if digest and other != row.case_id
                else ()
            )
            yield row._replace(doubts=row.doubts + twice)
    for problem in found.problems:
        yield CaseRow("(folder)", problem=problem)
    for doubt in found.doubts:
        yield CaseRow("(folder)", doubts=(doubt,))


def format_row(row: CaseRow | None = None) -> str:
    """Format one line of the table, or its header if no row is given."""
    if row is None:
        cells: Sequence[str] = (*_TITLES, "voxels per label", "verdict")
    else:
        verdict = row.problem or ("unusual: " + "; ".join(row.doubts) if row.doubts else "ok")
        cells = (row.case_id, row.grid, row.spacing, row.intensity, row.labels, verdict)
    fixed = "  ".join(cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=False))
    return f"{fixed}  {cells[-2]}  {cells[-1]}"


def _row(rules: VolumeRules, case: Case) -> tuple[CaseRow, str]:
    """Return the row of a case and the fingerprint of its image."""
    row, digest = CaseRow(case["case_id"]), ""
    try:
        image = read_volume(case["image"], rules=rules)
        channels = f" x{len(image)}" if len(image) > 1 else ""
        ranges = [f"{float(c.min()):g}..{float(c.max()):g}" for c in image.as_tensor()]
        row = row._replace(
            grid="x".join(str(n) for n in image.shape[1:]) + channels,
            spacing=" x ".join(f"{float(mm):.3g}" for mm in image.pixdim),
            intensity=", ".join(ranges),
        )
        digest = fingerprint(image)
        doubts = doubts_of_image(image, image_files(case["image"]), rules)
        label = check_label(image, case["label"], rules.label_values)
        counts = zip(*np.unique(np.asarray(label), return_counts=True), strict=True)
        row = row._replace(labels=" ".join(f"{value:g}:{count}" for value, count in counts))
        return row._replace(doubts=(*doubts, *doubts_of_label(label))), digest
    except (ValueError, FileNotFoundError) as error:
        return row._replace(problem=str(error)), digest
    except (MemoryError, RuntimeError) as error:  # torch reports a lack of memory as a RuntimeError
        return row._replace(problem=f"cannot read {', '.join(image_files(case['image']))}: {error}"), digest
