# SPDX-License-Identifier: Apache-2.0

"""Where the outputs of a run's steps are: pre-training, fine-tuning and evaluation, each in a folder of its own."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridmim_components.system.files import Row, read_json_object, read_table
from hybridmim_components.workflow.resume import is_set_aside
from hybridmim_components.workflow.run_record import RUN_FILE

__all__ = ["STEPS", "RunFolders", "find_run", "naming", "read_record"]

#: The steps of a run, in their order.
STEPS = ("pretrain", "train", "evaluate")


@dataclass(frozen=True)
class RunFolders:
    """Output folders of the steps of one run; None: the step has not run.

    Attributes:
        name: name of the run in tables and plots.
        pretrain: output of pretrain.json.
        train: output of train.json.
        evaluate: output of evaluate.json.
    """

    name: str
    pretrain: Path | None = None
    train: Path | None = None
    evaluate: Path | None = None

    def table(self, step: str, name: str) -> list[Row]:
        """Return the rows of a step's CSV file; an empty list if the step or its file is missing."""
        folder: Path | None = getattr(self, step)
        return read_table(folder / f"{name}.csv") if folder and (folder / f"{name}.csv").is_file() else []

    def record(self, step: str) -> dict[str, Any]:
        """Return a step's :class:`.RunRecord`, empty if there is none.

        Raises:
            ValueError: when the file is not a JSON object; names it.
        """
        folder: Path | None = getattr(self, step)
        return read_record(folder) if folder else {}


def find_run(folder: str | Path) -> RunFolders:
    """Find the outputs of the steps in a folder: the folder itself is one of them, or holds them.

    Raises:
        FileNotFoundError: when the folder does not exist or holds no output of a step.
        ValueError: when it holds two outputs of the same step; names them.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"a run must be a folder, got {folder}")
    found: dict[str, Path] = {}
    for place in [root, *sorted(path for path in root.iterdir() if path.is_dir() and not is_set_aside(path))]:
        step = _step_of(place)
        if step in found:
            raise ValueError(f"a run has one folder for each step, got two of {step}: {found[step]} and {place}")
        if step:
            found[step] = place
    if not found:
        raise FileNotFoundError(f"no output of pretrain, train or evaluate in {folder}")
    return RunFolders(root.resolve().name, **found)


def _step_of(folder: Path) -> str | None:
    """Return the step that wrote into a folder. Runs without a record are recognised by their files."""
    step = read_record(folder).get("step")
    if step in STEPS:
        return str(step)
    if (folder / "evaluation_cases.csv").is_file():
        return "evaluate"
    if (folder / "training.csv").is_file():
        with (folder / "training.csv").open(newline="", encoding="utf-8") as file:
            columns = next(csv.reader(file), [])
        return "pretrain" if any(name.endswith("_share") for name in columns) else "train"
    return None


def read_record(folder: Path) -> dict[str, Any]:
    """Return a folder's :class:`.RunRecord`, empty if there is none.

    Raises:
        ValueError: when the file is not the record of a run; names it.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        return {}
    with naming(path):
        record = read_json_object(path)
        starts = [{str(key): str(value) for key, value in start.items()} for start in record["starts"]]
        machine = {"system": str(record["machine"]["system"]), "cpu_cores": int(record["machine"]["cpu_cores"])}
        return {
            "step": record["step"],
            "command": str(record["command"]),
            "weights": record["weights"] and str(record["weights"]),
            "versions": dict(record["versions"]),
            "machine": {**machine, "gpus": [str(name) for name in record["machine"]["gpus"]]},
            "starts": starts,
        }


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file raises into one error that names the file.

    Raises:
        ValueError: in place of the error.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"cannot read {path}: {type(error).__name__}: {error}") from error
