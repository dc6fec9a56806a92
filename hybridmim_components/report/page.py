# SPDX-License-Identifier: Apache-2.0

"""One self-contained page of a run: what was learnt, how well it segments, and each case with its volumes."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from hybridmim_components.report.evaluated_cases import evaluated_cases
from hybridmim_components.report.run_folders import STEPS, RunFolders, find_run, naming
from hybridmim_components.report.sections import (
    best_epoch,
    data_findings,
    fine_tuning_curves,
    pretraining_section,
    recipes_of,
    step_facts,
)
from hybridmim_components.report.sentences import verdict_sentences
from hybridmim_components.report.verdicts import CaseScores, case_scores
from hybridmim_components.system.files import write_bytes
from hybridmim_components.workflow.learning import LEARNT_SHARE

__all__ = ["write_report"]

_SHARE_OF_PREVIEWS = 0.2  # of the page


def write_report(
    run_dirs: str | Path | Sequence[str | Path], output: str | Path | None = None, title: str = "", max_mib: float = 25
) -> Path:
    """Write ``report.html``, a page that opens in a browser without a network and can be sent to a colleague.

    The page shows the cases of the first run in three planes and 3D with NiiVue (https://github.com/niivue/niivue).
    Further runs are compared with it, for example training from scratch with fine-tuning of pre-trained weights. The
    page has the names of cases, as masks and tables have, and the commands with their paths. It has nothing of DICOM
    headers.

    Args:
        run_dirs: folder of a run, or folders of several. A folder is the output of a step, or holds outputs of steps.
        output: target file; default: ``report.html`` in the first folder.
        title: headline; default: the name of the first folder.
        max_mib: size of viewer, previews and volumes in MiB. As soon as a case does not fit, it and all better ones
            are left out.

    Returns:
        The target file.

    Raises:
        FileNotFoundError: when a folder does not exist or holds no output of a step, or in an exported bundle.
        ValueError: when a folder holds two outputs of one step, when two runs have the same folder, or when a table or
            a record of a run cannot be read; names them.

    Example:
        >>> with open("training.csv", "w") as file:
        ...     print("epoch", "number", "number_share", sep=",", file=file)
        ...     print(1, 0.9, 0.97, sep=",", file=file)
        >>> page = write_report(".")
        >>> "did not learn number (0.97)" in page.read_text()
        True
    """
    folders = [run_dirs] if isinstance(run_dirs, str | Path) else list(run_dirs)
    if not folders:
        raise ValueError("a report needs at least 1 folder of a run, got none")
    texts = {name: _resource(name) for name in ("page.css", "page.js", "page.html.jinja", "niivue.umd.js.gz")}
    runs = _with_distinct_names([find_run(folder) for folder in folders], folders)
    scores = [_scores(run) for run in runs]
    limit = max_mib * 2**20
    pretrainings = [pretraining_section(run, limit * _SHARE_OF_PREVIEWS / len(runs)) for run in runs if run.pretrain]
    used = sum(len(picture) for section in pretrainings for _, picture in section["previews"])
    cases = evaluated_cases(
        runs[0], scores[0], scores[1] if len(runs) > 1 else {}, limit - used - sum(map(len, texts.values()))
    )
    context: dict[str, Any] = {
        "title": title or runs[0].name,
        "made": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "runs": runs,
        "sentences": verdict_sentences(runs, scores),
        "learnt_share": LEARNT_SHARE,
        "pretrainings": pretrainings,
        "curves": fine_tuning_curves(runs),
        "best": [best_epoch(run) for run in runs if run.train],
        "summaries": [(run, run.table("evaluate", "evaluation_summary")) for run in runs if run.evaluate],
        **cases,
        "other": len(runs) > 1 and bool(scores[1]),
        "with_volumes": sum(bool(case["data"]) for case in cases["cases"]),
        **data_findings(runs),
        "steps": [step_facts(run, step) for run in runs for step in STEPS if getattr(run, step)],
        "recipes": [found for run in runs for found in recipes_of(run)],
        "viewer_data": _json(cases),
        # none of these holds a closing tag
        "css": Markup(texts["page.css"]),
        "js": Markup(texts["page.js"]),
        "niivue": Markup(texts["niivue.umd.js.gz"]),
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    page = environment.from_string(texts["page.html.jinja"]).render(context)
    target = Path(output) if output else Path(folders[0]) / "report.html"
    write_bytes(target, page.encode(errors="replace"))  # a path may hold bytes that are not text
    return target


def _resource(name: str) -> str:
    path = files(__package__).joinpath("static", name)
    if not path.is_file():
        raise FileNotFoundError("an exported bundle leaves the report page out: use the project's repository")
    content = path.read_bytes()
    return (gzip.decompress(content) if name.endswith(".gz") else content).decode()


def _with_distinct_names(runs: Sequence[RunFolders], folders: Sequence[str | Path]) -> list[RunFolders]:
    """Name the runs by as much of the end of their paths as tells them apart."""
    paths = [Path(folder).resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise ValueError(f"each run must have a folder of its own, got {', '.join(map(str, paths))}")
    names: list[str] = []
    for depth in range(1, 1 + max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return [replace(run, name=name) for name, run in zip(names, runs, strict=True)]


def _scores(run: RunFolders) -> dict[str, CaseScores]:
    with naming((run.evaluate or Path()) / "evaluation_cases.csv"):
        return case_scores(run.table("evaluate", "evaluation_cases"))


def _json(content: dict[str, Any]) -> Markup:
    """Return what the viewer needs as JSON that can stand in a script element."""
    shown = ("name", "classes", "reason", "data")
    needed = {**content, "cases": [{name: case[name] for name in shown} for case in content["cases"]]}
    return Markup(json.dumps(needed, allow_nan=False).replace("<", "\\u003c"))


def _number(value: float | None, digits: int = 3, signed: bool = False) -> str:
    """Format a number for a table."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
