# SPDX-License-Identifier: Apache-2.0

"""What the sections of the page show: pre-training, fine-tuning, data, and where everything comes from."""

from __future__ import annotations

import base64
import json
import logging
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hybridmim_components.report.curves import curves_svg
from hybridmim_components.report.run_folders import RunFolders, naming
from hybridmim_components.system.files import Row, read_json_object
from hybridmim_components.weights import read_recipe, read_weights
from hybridmim_components.workflow.learning import LEARNT_SHARE, start_and_end, terms_of

__all__ = [
    "HELD_OUT",
    "best_epoch",
    "data_findings",
    "fine_tuning_curves",
    "pretraining_section",
    "recipes_of",
    "step_facts",
]

logger = logging.getLogger(__name__)
#: Figures of held-out volumes, by their column in validation.csv.
HELD_OUT = {
    "val_masked_error_share": "masked error, share of guessing",
    "val_number_within_one": "number of masked patches, at most one off",
    "val_location_accuracy": "location of masked patches, balanced",
}
_MOST_PREVIEWS = 12
_FINGERPRINTS = ("volumes", "pretraining_volumes", "training_volumes", "validation_volumes")


def pretraining_section(run: RunFolders, limit: float) -> dict[str, Any]:
    """Return curves, table and previews of a run's pre-training.

    Args:
        run: a run with a pre-training.
        limit: most bytes that the previews take in the page.
    """
    rows, held_out = run.table("pretrain", "training"), run.table("pretrain", "validation")
    # without consistency: two heads that guess agree with each other, so a low value alone says nothing
    judged = [term for term in terms_of(rows) if term != "consistency"]
    curves = {term.replace("_", " "): (rows, f"{term}_share") for term in judged}
    error = {"masked error": (held_out, "val_masked_error_share")}
    level = (1.0, "as good as guessing")
    terms = [
        {
            "name": term.replace("_", " "),
            "loss": start_and_end(rows, term),
            "share": start_and_end(rows, f"{term}_share"),
            "learnt": ("yes" if start_and_end(rows, f"{term}_share")[1] < LEARNT_SHARE else "no")
            if term in judged
            else "not clear: heads that guess agree, too",
        }
        for term in terms_of(rows)
    ]
    return {
        "run": run.name,
        "svg": curves_svg(curves, "loss, share of guessing", level) if curves else "",
        "held_out_svg": curves_svg(error, "masked error, share of guessing", level) if held_out else "",
        "terms": terms,
        "held_out": [(text, *start_and_end(held_out, name)) for name, text in HELD_OUT.items() if _has(held_out, name)],
        "previews": _previews(run.pretrain / "previews", limit) if run.pretrain else [],
    }


def _has(rows: Sequence[Row], column: str) -> bool:
    return bool(rows) and column in rows[0]


def _previews(folder: Path, limit: float) -> list[tuple[int, str]]:
    """Return epochs and pictures: at most twelve, and no more than fit. The last epoch is always among them."""
    names = {path.stem.removeprefix("epoch_"): path for path in folder.glob("epoch_*.png")}
    paths = {int(name): path for name, path in names.items() if name.isdecimal()}
    epochs = sorted(paths)
    for count in range(min(_MOST_PREVIEWS, len(epochs)), 0, -1):
        chosen = [epochs[-1 - round(i * (len(epochs) - 1) / max(1, count - 1))] for i in range(count)]
        if sum(paths[epoch].stat().st_size for epoch in chosen) * 4 / 3 <= limit:
            return [(epoch, base64.b64encode(paths[epoch].read_bytes()).decode()) for epoch in sorted(chosen)]
    return []


def fine_tuning_curves(runs: Sequence[RunFolders]) -> list[Markup]:
    """Draw training loss and validation Dice of the runs that have them."""
    found = []
    for ylabel, table, column in (
        ("training loss", "training", "train_loss"),
        ("validation Dice", "validation", "val_mean_dice"),
    ):
        curves = {run.name: (rows, column) for run in runs if _has(rows := run.table("train", table), column)}
        found += [curves_svg(curves, ylabel, smoothed=table == "training")] if curves else []
    return found


def best_epoch(run: RunFolders) -> tuple[str, str, str]:
    """Return name of the run, best validation Dice, and its epoch."""
    rows = [row for row in run.table("train", "validation") if math.isfinite(float(row.get("val_mean_dice") or "nan"))]
    if not rows:
        return run.name, "-", "-"
    best = max(rows, key=lambda row: float(row["val_mean_dice"]))
    return run.name, f"{float(best['val_mean_dice']):.4f}", best["epoch"]


def data_findings(runs: Sequence[RunFolders]) -> dict[str, Any]:
    """Return what the checks before the runs found: whether there was one, unusual volumes, and those left out.

    Raises:
        ValueError: when a file of a check cannot be read; names it.
    """
    doubts: set[str] = set()
    left_out: set[str] = set()
    folders = [folder for run in runs for folder in (run.pretrain, run.train, run.evaluate) if folder]
    checks = [path for folder in folders for path in (folder / "volumes.json",) if path.is_file()]
    for path in checks:
        with naming(path):
            for key, entry in read_json_object(path).items():
                files = [Path(file) for file in json.loads(key)[0]]
                if all(file.exists() for file in files):  # the file is a cache, and may hold volumes that are gone
                    doubts |= {f"{', '.join(file.name for file in files)}: {doubt}" for doubt in entry[2]}
        refused = path.with_name("left_out.json")
        if refused.is_file():
            with naming(refused):
                left_out |= {str(text) for text in read_json_object(refused)["left_out"]}
    return {"checked": bool(checks), "doubts": sorted(doubts), "left_out": sorted(left_out)}


def step_facts(run: RunFolders, step: str) -> dict[str, Any]:
    """Return what is known about how a step ran."""
    record = run.record(step)
    starts = record.get("starts") or [{}]
    outcome = starts[-1].get("outcome", "unknown")
    seconds = [_seconds(start) for start in starts if start.get("ended")]
    machine = record.get("machine", {})
    gpus = ", ".join(machine.get("gpus", []))
    return {
        "run": run.name,
        "step": step,
        "outcome": "running, or killed" if outcome == "running" else outcome,
        "starts": len(starts),
        "started": starts[0].get("started", "-"),
        "duration": _duration(sum(seconds)) if seconds else "-",
        "machine": f"{machine['system']}, {gpus or str(machine['cpu_cores']) + ' CPU cores'}" if machine else "-",
        "versions": ", ".join(f"{name} {number}" for name, number in record.get("versions", {}).items()),
        "command": record.get("command", ""),
    }


def _seconds(start: Mapping[str, str]) -> float:
    ends = [datetime.strptime(start[name], "%Y-%m-%d %H:%M:%S") for name in ("started", "ended")]
    return (ends[1] - ends[0]).total_seconds()


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"


def recipes_of(run: RunFolders) -> list[dict[str, Any]]:
    """Return the recipes of the weights that a run wrote, with the number of fingerprints in place of these."""
    found = []
    for step in ("pretrain", "train"):
        weights = run.record(step).get("weights")
        path = Path(weights) / "model.pt" if weights else None
        if path is None or not path.is_file():
            continue
        try:
            recipe = read_recipe(path) or read_weights(path)[1]
        except (OSError, ValueError) as error:
            logger.warning("The page has no recipe of %s: %s", path, error)
            continue
        settings = {key: value for key, value in recipe.items() if key not in _FINGERPRINTS}
        counts = {f"{key} (fingerprints)": len(recipe[key]) for key in _FINGERPRINTS if key in recipe}
        found.append({"run": run.name, "step": step, "recipe": {**settings, **counts}})
    return found
