# SPDX-License-Identifier: Apache-2.0

"""The table of evaluated cases, and the data of the viewer: classes with their colours, and volumes of each case."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hybridmim_components.report.case_volumes import CaseVolumes, read_case
from hybridmim_components.report.run_folders import RunFolders, naming
from hybridmim_components.report.verdicts import CaseScores
from hybridmim_components.system.files import file_state, read_json_object

__all__ = ["CLASS_COLOURS", "evaluated_cases"]

logger = logging.getLogger(__name__)
#: Colours of classes that colour-blind readers can tell apart, by Okabe and Ito and by Paul Tol. The viewer keeps
#: #D55E00, #0072B2 and #F0E442 for errors.
CLASS_COLOURS = (
    "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#AA4499", "#44AA99", "#999933",
    "#882255", "#DDCC77", "#117733", "#88CCEE", "#661100", "#6699CC",
)  # fmt: skip
_FULL = "the page is full; a larger --max_mib shows it"


def evaluated_cases(
    run: RunFolders, scores: Mapping[str, CaseScores], other: Mapping[str, CaseScores], budget: float
) -> dict[str, Any]:
    """Return ``cases`` (rows of the table, worst first, with volumes as long as they fit) and ``classes``.

    Args:
        run: the run whose cases are shown.
        scores: its cases, worst first.
        other: cases of the run that it is compared with.
        budget: most bytes of all volumes.

    Raises:
        ValueError: when evaluation_files.json cannot be read; names it.
    """
    known: dict[str, Any] = {"labels": {}, "hounsfield": False, "cases": {}}
    path = run.evaluate / "evaluation_files.json" if run.evaluate else Path()
    if path.is_file():
        with naming(path):
            known = read_json_object(path)
            names = {int(value): str(name) for value, name in known["labels"].items()}
            known = {"labels": names, "hounsfield": bool(known["hounsfield"]), "cases": dict(known["cases"])}
    rows: list[dict[str, Any]] = []
    values = set(known["labels"])
    for name, case in scores.items():
        volumes, reason = _volumes(run, name, known, budget)
        if volumes:
            budget -= volumes.size
            values |= set(volumes.values)
        elif reason == _FULL:
            budget = 0  # a better case must not take the place of a worse one that did not fit
        comparable = name in other and other[name].truth == case.truth
        rows.append(_row(name, case, case.dice - other[name].dice if comparable else math.nan, volumes, reason))
    classes = [
        {
            "value": value,
            "name": known["labels"].get(value, f"label {value}"),
            "colour": CLASS_COLOURS[number % len(CLASS_COLOURS)],
        }
        for number, value in enumerate(sorted(values))
    ]
    return {"cases": rows, "classes": classes}


def _volumes(run: RunFolders, name: str, known: Mapping[str, Any], budget: float) -> tuple[CaseVolumes | None, str]:
    """Return the volumes of a case, or None and the reason, which names no path."""
    if name not in known["cases"]:
        return None, "the run did not record its image"
    if budget <= 0:
        return None, _FULL
    mask = (run.evaluate or Path()) / "masks" / f"{name}_seg.nii.gz"
    try:
        entry = known["cases"][name]
        if entry.get("label_state") not in (None, [], file_state(entry["label"])):
            return None, "its label has been replaced since the evaluation, so the figures belong to another one"
        volumes = read_case(entry["image"], entry["label"], mask, known["hounsfield"])
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        logger.warning("%s is shown without its image: %s", name, error)
        missing = isinstance(error, FileNotFoundError)
        return None, "one of its files is missing" if missing else "its files cannot be shown; report printed why"
    return (volumes, "") if volumes.size <= budget else (None, _FULL)


def _row(name: str, case: CaseScores, compared: float, volumes: CaseVolumes | None, reason: str) -> dict[str, Any]:
    """Return a row of the table of cases. Without volumes, the size of a voxel is not known."""
    voxel_ml = volumes.voxel_ml if volumes else math.nan
    classes = [
        {
            "name": row["class"],
            "dice": _finite(row["dice"]),
            "hd95": _finite(row["hd95_mm"]),
            "truth": _finite(int(row["label_voxels"]) * voxel_ml),
            "predicted": _finite(int(row["pred_voxels"]) * voxel_ml),
            "flag": row["flag"],
        }
        for row in case.rows
    ]
    return {
        "name": name,
        "group": case.group,
        "dice": case.dice,
        "hd95": case.hd95_mm,
        "compared": compared,
        "truth": volumes.truth_ml if volumes else math.nan,
        "predicted": volumes.predicted_ml if volumes else math.nan,
        "classes": classes,
        "reason": reason,
        "data": asdict(volumes) if volumes else None,
    }


def _finite(value: str | float) -> float | None:
    """Return a number that JSON can hold."""
    return float(value) if math.isfinite(float(value)) else None
