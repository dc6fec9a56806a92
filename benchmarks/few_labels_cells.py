# SPDX-License-Identifier: Apache-2.0

"""Computation of the cells of few_labels.py: pre-training, fine-tuning and scores, by a bundle's own configs."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from few_labels_arms import Arm, read_arms
from few_labels_patients import Patients, StudyError
from few_labels_probe import labelled_crops, probe_dice, read_train
from few_labels_settings import Settings
from rows import read_rows

from hybridmim_components.system.errors import root_cause
from hybridmim_components.system.files import write_text

__all__ = ["Cell", "Study", "output_to", "scores"]

ROOT = Path(__file__).resolve().parents[1]
STEPS_PER_EPOCH = 50
LEARNT = ("masked_error_share", "number_accuracy", "number_within_one", "location_accuracy")
Overrides = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One figure of the table: an arm with some labelled patients and a seed, scored on some patients.

    Attributes:
        arm: name of the arm.
        labels: labelled patients; 0: the whole pool.
        seed: draws the labelled patients, the initial weights, the crops, and the pre-training; all arms share it.
        scored: set of the scored patients, ``tuning`` or ``test``.
        learning_rate: learning rate of fine-tuning.
        steps: steps of fine-tuning.
        pretraining_steps: steps of pre-training, or those that an arm with ``longer`` adds to its fine-tuning.
    """

    arm: str
    labels: int
    seed: int
    scored: str
    learning_rate: float
    steps: int
    pretraining_steps: int

    @property
    def key(self) -> tuple[str, ...]:
        """Values that identify the cell, as the CSV file holds them."""
        return tuple(str(getattr(self, name)) for name in self.__dataclass_fields__)


class Study:
    """Computation of the cells for one bundle.

    Args:
        bundle: name of the bundle, such as ``msd_hippocampus_unet``.
        dataset_dir: folder of the labelled data set.
        work: folder for pre-trained weights and logs.
        costs: file with the CPU seconds per step of each arm, measured once so that all later runs have equal budgets.
        pretraining_minutes: CPU time of each pre-training.
        settings: what all arms change alike.
        unlabelled_dirs: folders of further volumes for pre-training.
    """

    def __init__(
        self,
        bundle: str,
        dataset_dir: str,
        work: Path,
        costs: Path,
        pretraining_minutes: float,
        settings: Settings | None = None,
        unlabelled_dirs: Sequence[str] = (),
    ) -> None:
        self.bundle = ROOT / "bundles" / f"hybridmim_{bundle}_segmentation"
        if not self.bundle.is_dir():
            names = (path.name for path in self.bundle.parent.glob("hybridmim_*"))
            known = [name.removeprefix("hybridmim_").removesuffix("_segmentation") for name in names]
            raise StudyError(f"--bundle must be one of {', '.join(sorted(known))}, got {bundle}")
        self.dataset, self.dataset_dir, self.work, self.costs = bundle.rpartition("_")[0], dataset_dir, work, costs
        self.pretraining_minutes, self.unlabelled_dirs = pretraining_minutes, unlabelled_dirs
        self.settings = settings or Settings()
        self.arms = read_arms()

    @cached_property
    def patients(self) -> Patients:
        """The three sets of patients."""
        try:
            options = self.settings.test, self.settings.tuning, self.unlabelled_dirs
            return Patients(self.dataset, self.dataset_dir, *options, self.settings.pretrain.get("modalities"))
        except (ValueError, OSError) as error:
            raise StudyError(str(error)) from error

    def pretraining_steps(self, name: str) -> int:
        """Return how many steps fit into the CPU time of a pre-training.

        They are steps of the arm's pre-training, or of fine-tuning for an arm with ``longer``; 0 for other arms.
        """
        arm = self.arms[name]
        source = name if arm.longer else arm.pretrained_by
        return self._steps_in_time(source) if source else 0

    def measure(self, name: str) -> None:
        """Measure the cost of a pre-training step of an arm, or of a fine-tuning step if ``longer``, unless known.

        Known costs may come from another machine, or from a slower hour of this one. So one of them is measured again,
        and the new cost is scaled like it.
        """
        arm, known = self.arms[name], self._known_costs()
        if name in known or (arm.pretrain is None and not arm.longer):
            return
        cost = self._measured(arm)
        if other := next((other for other in known if other in self.arms), None):
            cost *= known[other] / self._measured(self.arms[other])
        write_text(self.costs, json.dumps(known | {name: round(cost, 4)}, indent=4) + "\n")

    def _measured(self, arm: Arm) -> float:
        """Return the CPU seconds of a step."""
        seconds = {}
        for steps in (50, 10):  # the difference, so that what is done once does not count
            folder = self.work / "cost" / f"{arm.name}_{steps}"
            shutil.rmtree(folder, ignore_errors=True)
            if arm.longer:
                cell = Cell(arm.name, 2, 0, "tuning", 0.001, steps, 0)
                overrides = {**self._fine_tuning(cell, folder), "validate#dataset#data": []}
            else:
                overrides = self._pretraining(arm, folder, 0, steps)
            overrides |= {"steps_per_epoch": steps, "epochs": 1, "resume": "never"}
            seconds[steps] = self._run(["train" if arm.longer else "pretrain"], folder, overrides)
            shutil.rmtree(folder)
        cost = (seconds[50] - seconds[10]) / 40
        if cost <= 0:
            raise RuntimeError(f"a step of {arm.name} must take time, got {cost:g} s: measure it again")
        return cost

    def _known_costs(self) -> dict[str, float]:
        return dict(json.loads(self.costs.read_text(encoding="utf-8"))) if self.costs.is_file() else {}

    def _steps_in_time(self, name: str) -> int:
        steps = 60 * self.pretraining_minutes * self.arms[name].times / self._known_costs()[name]
        return max(1, round(steps / STEPS_PER_EPOCH)) * STEPS_PER_EPOCH

    def pretrain(self, name: str, seed: int) -> Path:
        """Return the pre-trained weights of an arm, and pre-train first if needed. They are those of the last step."""
        steps = self.pretraining_steps(name)
        folder = self._pretrained(name, seed)
        if not (folder / "done").is_file():
            self._run(["pretrain"], folder, self._pretraining(self.arms[name], folder, seed, steps))
            (folder / "done").touch()
        return folder / "models" / "pretrained" / "last.pt"

    def learnt(self, name: str, seed: int) -> dict[str, Any]:
        """Return the figures of a pre-training's last validation, on volumes of the pool that it held out."""
        figures = read_rows(self._pretrained(name, seed) / "pretrain" / "validation.csv")[-1]
        kept = {key: f"{float(figures[f'val_{key}']):.4f}" for key in LEARNT if figures.get(f"val_{key}")}
        return {"arm": name, "seed": seed, "steps": self.pretraining_steps(name)} | dict.fromkeys(LEARNT, "") | kept

    def _pretrained(self, name: str, seed: int) -> Path:
        return self.work / "pretrained" / f"{name}_{seed}_{self.pretraining_steps(name)}"

    def _pretraining(self, arm: Arm, folder: Path, seed: int, steps: int) -> Overrides:
        return {
            **self._places(folder, "pretrain"),
            "lists": self.patients.unlabelled(),
            "seed": seed,
            "epochs": steps // STEPS_PER_EPOCH,
            "steps_per_epoch": STEPS_PER_EPOCH,
            "val_interval": 10,
            **self.settings.pretrain,
            **(arm.pretrain or {}),
        }

    def score(self, cell: Cell) -> dict[str, Any]:
        """Fine-tune and score a cell; return its row of the table.

        ``cpu_seconds`` are those of fine-tuning, and of its last start if it was interrupted.
        """
        folder = self.work / "cells" / "_".join(cell.key)
        train = self._fine_tuning(cell, folder)
        seconds = self._run(["train"], folder, {**train, "validate#dataset#data": []})
        patients = self.patients.test if cell.scored == "test" else self.patients.tuning
        evaluation = {"output_dir": str(folder / "evaluate"), "validate#dataset#data": self.patients.items(patients)}
        self._run(["train", "evaluate"], folder, {**train, **evaluation})
        row = {**cell.__dict__, "cpu_seconds": round(seconds, 1)}
        row |= scores(folder / "evaluate" / "evaluation_cases.csv", {p: self.patients.of[p] for p in patients})
        shutil.rmtree(folder)
        return row

    def require_probe_crops(self, labels: int, seed: int) -> None:
        """Refuse labelled cases that a probe cannot use, before any pre-training.

        Raises:
            StudyError: see :func:`.labelled_crops`.
        """
        overrides = self._fine_tuning(Cell("scratch", labels, seed, "test", 0.0, 0, 0), self.work / "probes")
        labelled_crops(read_train(self.bundle / "configs" / "train.json", overrides))

    def probe(self, cell: Cell) -> dict[str, Any]:
        """Score a linear classifier of the arm's frozen features on the test patients; return its row.

        The log with the Dice of the tuning patients for each penalty stays in the work folder.
        """
        folder = self.work / "probes" / "_".join(cell.key)
        overrides = self._fine_tuning(cell, folder)
        tuning = self.patients.items(self.patients.tuning)
        scored = {patient: self.patients.items([patient]) for patient in self.patients.test}
        folder.mkdir(parents=True, exist_ok=True)
        with output_to(folder / "probe.log"):
            values = probe_dice(self.bundle / "configs" / "train.json", overrides, tuning, scored)
        each = ";".join(f"{value:.4f}" for value in values)
        return {**cell.__dict__, "dice": round(fmean(values), 5), "dice_by_patient": each}

    def curve(self, cell: Cell) -> list[dict[str, Any]]:
        """Fine-tune a cell, and return the Dice of the tuning patients after each epoch."""
        folder = self.work / "curves" / "_".join(cell.key)
        tuning = {"validate#dataset#data": self.patients.items(self.patients.tuning), "val_interval": 1}
        self._run(["train"], folder, {**self._fine_tuning(cell, folder), **tuning})
        rows = read_rows(folder / "train" / "validation.csv")
        shutil.rmtree(folder)
        return [
            {
                **cell.__dict__,
                "step": int(row["epoch"]) * STEPS_PER_EPOCH,
                "dice": round(float(row["val_mean_dice"]), 4),
            }
            for row in rows
        ]

    def _fine_tuning(self, cell: Cell, folder: Path) -> Overrides:
        source = self.arms[cell.arm].pretrained_by
        pretrained = self.pretrain(source, cell.seed) if source else None
        steps = cell.steps + (cell.pretraining_steps if self.arms[cell.arm].longer else 0)
        return {
            **self._places(folder, "train"),
            "train#dataset#data": self.patients.labelled(cell.labels, cell.seed),
            "pretrained": str(pretrained) if pretrained else None,
            "seed": cell.seed,
            "learning_rate": cell.learning_rate,
            "epochs": steps // STEPS_PER_EPOCH,
            "steps_per_epoch": STEPS_PER_EPOCH,
            **self.settings.train,
            **(self.arms[cell.arm].train or {}),
        }

    def _places(self, folder: Path, step: str) -> Overrides:
        return {
            "bundle_root": str(self.bundle),
            "dataset_dir": self.dataset_dir,
            "output_dir": str(folder / step),
            "ckpt_dir": str(folder / "models"),
            "device": "cpu",
            "num_workers": 0,
            "cache": "memory",
            "checkpoint_minutes": 10,
        }

    def _run(self, configs: Sequence[str], folder: Path, overrides: Overrides) -> float:
        """Run a bundle's config in this process and log its output to a file; return the CPU seconds of the run.

        Raises:
            StudyError: when the bundle refuses its input.
        """
        from monai.bundle import ConfigWorkflow

        folder.mkdir(parents=True, exist_ok=True)
        files, log = [str(self.bundle / "configs" / f"{name}.json") for name in configs], folder / f"{configs[-1]}.log"
        with output_to(log):
            try:
                workflow = ConfigWorkflow(files, workflow_type="train", logging_file=False, **overrides)
                workflow.initialize()
                started = time.process_time()
                workflow.run()
                seconds = time.process_time() - started
                workflow.finalize()
            except SystemExit as error:
                raise RuntimeError(f"a run was stopped, its log is {log}") from error
            except Exception as error:
                traceback.print_exc()  # MONAI wraps what the bundle's checks say
                cause = root_cause(error)
                if not isinstance(cause, (ValueError, OSError)):
                    raise
                raise StudyError(f"{configs[-1]}.json of {self.bundle.name}: {cause} (log: {log})") from None
        return seconds


def scores(path: Path, patients: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the figures of an evaluation: the mean over the patients, and the figure of each patient.

    A patient's figure is the mean over the patient's cases and the classes. A class is left out if the truth of the
    case does not contain it, and so is a patient without any.

    Args:
        path: ``evaluation_cases.csv``.
        patients: the cases of each patient.
    """
    rows = [row for row in read_rows(path) if int(row["label_voxels"]) > 0]
    found: dict[str, Any] = {}
    for name, digits in (("dice", 4), ("hd95_mm", 2)):
        values = [[float(row[name]) for row in rows if row["case"] in cases] for cases in patients.values()]
        means = [fmean(own) for own in values if own]
        found[name] = round(fmean(means), 5)
        found[f"{name}_by_patient"] = ";".join(f"{mean:.{digits}f}" for mean in means)
    return found


@contextlib.contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Send what this process writes to a file. The run must not see this script's command line."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(number) for number in (1, 2)]
    argv, sys.argv = sys.argv, sys.argv[:1]
    with path.open("a", encoding="utf-8") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            logging.shutdown()
            for number, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, number)
                os.close(copy)
            sys.argv = argv
