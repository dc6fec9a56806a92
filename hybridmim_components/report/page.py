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

"""One self-contained page of a run: what was learnt, how well it segments, and each case with its volumes."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from hybridmim_components.report.case_volumes import CaseVolumes, read_case
from hybridmim_components.report.curves import curves_svg
from hybridmim_components.report.run_folders import STEPS, Row, RunFolders, find_run
from hybridmim_components.report.verdicts import (
    HELD_OUT,
    LEARNT_SHARE,
    CaseScores,
    Difference,
    case_scores,
    learning_sentence,
    paired_difference,
    start_and_end,
    terms_of,
)
from hybridmim_components.system.files import read_json_object, write_text
from hybridmim_components.weights import read_recipe, read_weights

__all__ = ["write_report"]

logger = logging.getLogger(__name__)
#: Colours of classes that colour-blind readers can tell apart: those of Okabe and Ito, then of Paul Tol.
CLASS_COLOURS = (
    "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2", "#AA4499",
    "#44AA99", "#999933", "#882255", "#DDCC77", "#117733", "#88CCEE", "#661100", "#6699CC",
)  # fmt: skip
_MOST_PREVIEWS = 12
_FINGERPRINTS = ("volumes", "pretraining_volumes", "training_volumes", "validation_volumes")


def write_report(
    run_dirs: str | Path | Sequence[str | Path], output: str | Path | None = None, title: str = "", max_mib: float = 25
) -> Path:
    """Write ``report.html``, a page that opens in a browser without a network and can be sent to a colleague.

    The page shows the cases of the first run in three planes and 3D with NiiVue (https://github.com/niivue/niivue).
    Further runs are compared with it, for example training from scratch with fine-tuning of pre-trained weights. The
    page has the names of cases, as masks and tables have, and nothing of DICOM headers.

    Args:
        run_dirs: folder of a run, or folders of several. A folder is the output of a step, or holds outputs of steps.
        output: target file; default: ``report.html`` in the first folder.
        title: headline; default: the name of the first folder.
        max_mib: size of the page in MiB. Volumes that do not fit are left out, from the best segmented case on.

    Returns:
        The target file.

    Raises:
        FileNotFoundError: when a folder does not exist or holds no output of a step.
        ValueError: when a folder holds two outputs of one step, when two runs have the same folder, or when a file of a
            run cannot be read; names them.
    """
    folders = [run_dirs] if isinstance(run_dirs, str | Path) else list(run_dirs)
    if not folders:
        raise ValueError("a report needs at least 1 folder of a run, got none")
    runs = _with_distinct_names([find_run(folder) for folder in folders], folders)
    target = Path(output) if output else Path(folders[0]) / "report.html"
    scores = [case_scores(run.table("evaluate", "evaluation_cases")) for run in runs]
    niivue = gzip.decompress(files(__package__).joinpath("static", "niivue.umd.js.gz").read_bytes()).decode()
    # none of the three holds a closing tag
    texts = {"page_css": _resource("page.css"), "page_js": _resource("page.js"), "niivue": niivue}
    context: dict[str, Any] = {
        "title": title or runs[0].name,
        "made": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "runs": runs,
        "sentences": _sentences(runs, scores),
        "learnt_share": LEARNT_SHARE,
        "steps": [_step(run, step) for run in runs for step in STEPS if getattr(run, step)],
        "pretrainings": [_pretraining(run) for run in runs if run.pretrain],
        "curves": _fine_tuning_curves(runs),
        "best": [_best(run) for run in runs if run.train],
        "summaries": [(run, run.table("evaluate", "evaluation_summary")) for run in runs if run.evaluate],
        "doubts": sorted({doubt for run in runs for doubt in _doubts(run)}),
        "left_out": sorted({text for run in runs for text in _left_out(run)}),
        "recipes": [found for run in runs for found in _recipes(run)],
        **{name: Markup(text) for name, text in texts.items()},
    }
    budget = max_mib * 2**20 - sum(len(text) for text in texts.values()) - _size_of_previews(context["pretrainings"])
    context |= _cases(runs[0], scores, budget)
    context["viewer_data"] = _json(
        {
            "classes": context["classes"],
            "cases": [
                {name: case[name] for name in ("name", "classes", "reason", "data")} for case in context["cases"]
            ],
        }
    )
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    write_text(target, environment.from_string(_resource("page.html.jinja")).render(context))
    return target


def _resource(name: str) -> str:
    return files(__package__).joinpath("static", name).read_text(encoding="utf-8")


def _with_distinct_names(runs: Sequence[RunFolders], folders: Sequence[str | Path]) -> list[RunFolders]:
    """Name the runs by as much of the end of their paths as tells them apart."""
    paths = [Path(folder).resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise ValueError(f"each run must have a folder of its own, got {', '.join(map(str, paths))}")
    for depth in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return [RunFolders(name, run.pretrain, run.train, run.evaluate) for name, run in zip(names, runs, strict=True)]


def _sentences(runs: Sequence[RunFolders], scores: Sequence[Mapping[str, CaseScores]]) -> list[str]:
    """Answer in words: did pre-training learn, how well does the network segment, and does one run beat another."""
    several = len(runs) > 1
    found = []
    for run, cases in zip(runs, scores, strict=True):
        prefix = f"{run.name}: " if several else ""
        if run.pretrain:
            found.append(prefix + learning_sentence(run.table("pretrain", "training")))
        groups = sorted({case.group for case in cases.values()})
        for group in groups:
            dice = [case.dice for case in cases.values() if case.group == group and not math.isnan(case.dice)]
            if dice:
                mean = f"{sum(dice) / len(dice):.3f}"
                found.append(f"{prefix}Mean Dice {mean} on {len(dice)} case(s): {_GROUP_WORDS[group]}.")
        if run.evaluate and not cases:
            found.append(f"{prefix}The evaluation has not scored a case.")
        if not run.evaluate:
            found.append(f"{prefix}No evaluation: run configs/evaluate.json to see cases here.")
    found += [_difference_sentence(runs[0].name, name, difference) for name, difference in _differences(runs, scores)]
    return found


_GROUP_WORDS = {
    "unseen": "seen by no training, and they chose nothing",
    "validation": "not trained on, but they chose the best epoch",
    "pretraining": "seen by pre-training",
    "training": "the training cases themselves",
    "unknown": "nobody knows whether they were trained on",
}


def _differences(
    runs: Sequence[RunFolders], scores: Sequence[Mapping[str, CaseScores]]
) -> list[tuple[str, Difference | None]]:
    """Compare the first run's evaluation with that of each other run."""
    others = zip(runs[1:], scores[1:], strict=True)
    return [(run.name, paired_difference(scores[0], cases)) for run, cases in others if scores[0] and cases]


def _difference_sentence(first: str, second: str, difference: Difference | None) -> str:
    if difference is None:
        return f"{first} and {second} have evaluated no case in common, so they are not compared."
    text = f"{first} less {second}: {100 * difference.mean:+.1f} Dice points on {difference.cases} case(s) of both"
    if math.isnan(difference.low):
        return f"{text}; too few cases for an interval."
    text += f", 95 % interval {100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    decided = difference.low > 0 or difference.high < 0
    one_seed = "One run each cannot tell what another seed would give."
    return f"{text}{'' if decided else ': no difference is shown'}. {one_seed}"


def _step(run: RunFolders, step: str) -> dict[str, Any]:
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


def _pretraining(run: RunFolders) -> dict[str, Any]:
    rows, held_out = run.table("pretrain", "training"), run.table("pretrain", "validation")
    shown = [term for term in terms_of(rows) if term != "consistency"]
    curves = {term.replace("_", " "): (rows, f"{term}_share") for term in shown}
    error = {"masked error": (held_out, "val_masked_error_share")}
    level = (1.0, "as good as guessing")
    terms = [
        (term.replace("_", " "), *start_and_end(rows, term), *start_and_end(rows, f"{term}_share"), term in shown)
        for term in terms_of(rows)
    ]
    return {
        "run": run.name,
        "svg": curves_svg(curves, "loss, share of guessing", level) if curves else "",
        "held_out_svg": curves_svg(error, "held-out masked error, share of guessing", level) if held_out else "",
        "terms": terms,
        "held_out": [(text, *start_and_end(held_out, name)) for name, text in HELD_OUT.items() if _has(held_out, name)],
        "previews": _previews(run.pretrain / "previews") if run.pretrain else [],
    }


def _has(rows: Sequence[Row], column: str) -> bool:
    return bool(rows) and column in rows[0]


def _previews(folder: Path) -> list[tuple[int, str]]:
    """Return epochs and pictures: at most twelve, the first and the last among them."""
    paths = sorted(folder.glob("epoch_*.png"))
    last = len(paths) - 1
    chosen = sorted({round(i * last / (_MOST_PREVIEWS - 1)) for i in range(_MOST_PREVIEWS)}) if paths else []
    return [(int(paths[i].stem.partition("_")[2]), base64.b64encode(paths[i].read_bytes()).decode()) for i in chosen]


def _size_of_previews(pretrainings: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(picture) for found in pretrainings for _, picture in found["previews"])


def _fine_tuning_curves(runs: Sequence[RunFolders]) -> list[Markup]:
    tables = {"training loss": ("training", "train_loss"), "validation Dice": ("validation", "val_mean_dice")}
    found = []
    for ylabel, (table, column) in tables.items():
        curves = {run.name: (rows, column) for run in runs if _has(rows := run.table("train", table), column)}
        found += [curves_svg(curves, ylabel)] if curves else []
    return found


def _best(run: RunFolders) -> tuple[str, str, str]:
    """Return name of the run, best validation Dice, and its epoch."""
    rows = [row for row in run.table("train", "validation") if row.get("val_mean_dice")]
    if not rows:
        return run.name, "-", "-"
    best = max(rows, key=lambda row: float(row["val_mean_dice"]))
    return run.name, f"{float(best['val_mean_dice']):.4f}", best["epoch"]


def _doubts(run: RunFolders) -> list[str]:
    """Return what is unusual about the volumes of a run, each with the file's name."""
    found = []
    for folder in (run.pretrain, run.train, run.evaluate):
        entries = read_json_object(folder / "volumes.json") if folder and (folder / "volumes.json").is_file() else {}
        for key, entry in entries.items():
            names = ", ".join(Path(file).name for file in json.loads(key)[0])
            found += [f"{names}: {doubt}" for doubt in entry[2]]
    return found


def _left_out(run: RunFolders) -> list[str]:
    path = run.pretrain / "left_out.json" if run.pretrain else None
    return list(read_json_object(path)["left_out"]) if path and path.is_file() else []


def _recipes(run: RunFolders) -> list[dict[str, Any]]:
    """Return the recipes of the weights that a run wrote, with the number of fingerprints in place of these."""
    found = []
    for step in ("pretrain", "train"):
        weights = run.record(step).get("weights")
        path = Path(weights) / "model.pt" if weights else None
        if path is None or not path.is_file():
            continue
        recipe = read_recipe(path) or read_weights(path)[1]
        settings = {key: value for key, value in recipe.items() if key not in _FINGERPRINTS}
        counts = {f"{key} (fingerprints)": len(recipe[key]) for key in _FINGERPRINTS if key in recipe}
        found.append({"run": run.name, "step": step, "recipe": {**settings, **counts}})
    return found


def _cases(run: RunFolders, scores: Sequence[Mapping[str, CaseScores]], budget: float) -> dict[str, Any]:
    """Return the rows of the table of cases, and the volumes of as many cases as fit, worst first."""
    own, other = scores[0], scores[1] if len(scores) > 1 else {}
    path = run.evaluate / "evaluation_files.json" if run.evaluate else None
    known: dict[str, Any] = {"labels": {}, "hounsfield": False, "cases": {}}
    if path and path.is_file():
        known = read_json_object(path)
    classes = [
        {"value": int(value), "name": name, "colour": CLASS_COLOURS[number % len(CLASS_COLOURS)]}
        for number, (value, name) in enumerate(known["labels"].items())
    ]
    rows: list[dict[str, Any]] = []
    for name, case in own.items():
        volumes, reason = _volumes(run, name, known, budget)
        budget -= volumes.size if volumes else 0
        compared = case.dice - other[name].dice if name in other else math.nan
        rows.append(_case(name, case, compared, volumes, reason))
    return {"classes": classes, "cases": rows, "other": bool(other), "with_volumes": sum(bool(r["data"]) for r in rows)}


def _volumes(run: RunFolders, name: str, known: Mapping[str, Any], budget: float) -> tuple[CaseVolumes | None, str]:
    """Return the volumes of a case, or None and the reason."""
    if name not in known["cases"]:
        return None, "the run did not record its image"
    if budget <= 0:
        return None, "the page is full; a larger --max_mib shows it"
    entry = known["cases"][name]
    mask = (run.evaluate or Path()) / "masks" / f"{name}_seg.nii.gz"
    try:
        volumes = read_case(entry["image"], entry["label"], mask, known["hounsfield"])
    except (OSError, ValueError, RuntimeError) as error:
        logger.warning("%s is shown without its image: %s", name, error)
        return None, f"its image cannot be shown: {error}"
    return (volumes, "") if volumes.size <= budget else (None, "the page is full; a larger --max_mib shows it")


def _case(name: str, case: CaseScores, compared: float, volumes: CaseVolumes | None, reason: str) -> dict[str, Any]:
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


def _json(content: Any) -> Markup:
    """Return JSON that can stand in a script element."""
    return Markup(json.dumps(content, allow_nan=False).replace("<", "\\u003c"))


def _number(value: float | None, digits: int = 3, signed: bool = False) -> str:
    """Format a number for a table."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
