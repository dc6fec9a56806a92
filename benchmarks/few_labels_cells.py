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

"""The cells of few_labels.py: a pre-training, a fine-tuning and its score, each by a bundle's own configs."""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hybridmim_components.data import read_cases
from hybridmim_components.data.splits import shuffled

__all__ = ["Arm", "Cell", "Patients", "Study", "read_arms"]

ROOT = Path(__file__).resolve().parents[1]
ARMS = ROOT / "benchmarks" / "arms"
SPLIT_SEED, TEST, TUNING = 2026, 60, 40
STEPS_PER_EPOCH = 50
Overrides = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """One way to come to a segmentation network.

    Attributes:
        name: of its file in benchmarks/arms.
        title: for people.
        pretrain: overrides of pretrain.json; None: no pre-training.
        train: overrides of train.json.
        longer: train as much longer as pre-training takes.
    """

    name: str
    title: str
    pretrain: Mapping[str, Any] | None = None
    train: Mapping[str, Any] | None = None
    longer: bool = False


def read_arms(folder: Path = ARMS) -> dict[str, Arm]:
    """All arms by name."""
    return {p.stem: Arm(p.stem, **json.loads(p.read_text(encoding="utf-8"))) for p in sorted(folder.glob("*.json"))}


@dataclass(frozen=True)
class Cell:
    """One figure of the table: an arm with some labelled patients and a seed, scored on some patients.

    Attributes:
        arm: name of the arm.
        labels: labelled patients; 0: the whole pool.
        seed: draws the labelled patients, the initial weights and the crops; all arms share it.
        pretraining: number of the pre-training that it starts from, also its seed.
        scored: ``tuning`` or ``test``.
        learning_rate: of fine-tuning.
        steps: of fine-tuning.
    """

    arm: str
    labels: int
    seed: int
    pretraining: int
    scored: str
    learning_rate: float
    steps: int

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it from other cells, as the CSV file has it."""
        return tuple(str(getattr(self, name)) for name in self.__dataclass_fields__)


class Patients:
    """Three disjoint sets of patients: test, tuning, and the pool that pre-training sees and labels come from."""

    def __init__(self, dataset: str, dataset_dir: str) -> None:
        self.cases = {case["case_id"]: case for case in read_cases(dataset, dataset_dir)}
        order = shuffled(list(self.cases), SPLIT_SEED)
        self.test, self.tuning, self.pool = order[:TEST], order[TEST : TEST + TUNING], order[TEST + TUNING :]
        if not self.pool:
            raise ValueError(f"the study needs more than {TEST + TUNING} labelled cases, got {len(order)}")

    def items(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Items of a config's data list."""
        return [dict(self.cases[i]) for i in ids]

    def labelled(self, count: int, seed: int) -> list[str]:
        """The patients whose labels a seed draws; more of them contain fewer. 0: all."""
        return shuffled(self.pool, seed)[: count or len(self.pool)]

    def unlabelled(self) -> dict[str, list[dict[str, Any]]]:
        """What pre-training sees: the images of the pool."""
        items = [{"image": self.cases[i]["image"], "volume": number} for number, i in enumerate(self.pool)]
        held_out = [{"image": self.cases[i]["image"]} for i in (*self.test, *self.tuning)]
        return {"training": items[10:], "validation": items[:10], "held_out": held_out}


class Study:
    """Runs cells of one bundle.

    Args:
        bundle: such as ``msd_hippocampus_unet``.
        dataset_dir: folder of the labelled data set.
        work: folder for pre-trained weights and logs.
        pretraining_minutes: CPU time of each pre-training.
    """

    def __init__(self, bundle: str, dataset_dir: str, work: Path, pretraining_minutes: float) -> None:
        self.bundle = ROOT / "bundles" / f"hybridmim_{bundle}_segmentation"
        self.dataset, self.dataset_dir, self.work = bundle.rpartition("_")[0], dataset_dir, work
        self.pretraining_minutes = pretraining_minutes
        self.arms = read_arms()

    @cached_property
    def patients(self) -> Patients:
        """The three sets."""
        return Patients(self.dataset, self.dataset_dir)

    def pretraining_steps(self, arm: Arm) -> int:
        """Steps that fit into the CPU time, from a step's cost, which is measured once and kept in a file."""
        path = self.work / "seconds_per_step.json"
        costs = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if arm.name not in costs:
            costs[arm.name] = self._seconds_per_step(arm)
            path.write_text(json.dumps(costs, indent=4) + "\n", encoding="utf-8")
        steps = 60 * self.pretraining_minutes / costs[arm.name]
        return max(STEPS_PER_EPOCH, round(steps / STEPS_PER_EPOCH) * STEPS_PER_EPOCH)

    def _seconds_per_step(self, arm: Arm) -> float:
        """From a long run and a short one, so that what is done once does not count."""
        seconds = {}
        for steps in (50, 10):
            folder = self.work / "cost" / f"{arm.name}_{steps}"
            seconds[steps] = self._pretrain(arm, folder, 0, steps, steps)
            shutil.rmtree(folder)
        return (seconds[50] - seconds[10]) / 40

    def pretrain(self, arm: Arm, number: int) -> Path:
        """Pre-trained weights of an arm, made if they are not there; the last ones, which no volume has chosen."""
        folder = self.work / "pretrained" / f"{arm.name}_{number}"
        if not (folder / "done.json").is_file():
            steps = self.pretraining_steps(arm)
            seconds = self._pretrain(arm, folder, number, steps, STEPS_PER_EPOCH)
            (folder / "done.json").write_text(json.dumps({"steps": steps, "cpu_seconds": seconds}), encoding="utf-8")
        return folder / "models" / "pretrained" / "last.pt"

    def _pretrain(self, arm: Arm, folder: Path, seed: int, steps: int, steps_per_epoch: int) -> float:
        overrides = {
            **self._places(folder, "pretrain"),
            "lists": self.patients.unlabelled(),
            "seed": seed,
            "epochs": steps // steps_per_epoch,
            "steps_per_epoch": steps_per_epoch,
            "val_interval": 10,
            **(arm.pretrain or {}),
        }
        return self._run(["pretrain"], folder, overrides)

    def score(self, cell: Cell) -> dict[str, Any]:
        """Fine-tune and score a cell: a row of the table."""
        arm = self.arms[cell.arm]
        folder = self.work / "cells" / "_".join(cell.key)
        pretrained = str(self.pretrain(arm, cell.pretraining)) if arm.pretrain is not None else None
        steps = cell.steps + (self._extra_steps(cell) if arm.longer else 0)
        train = self._fine_tuning(cell, folder, pretrained, steps)
        seconds = self._run(["train"], folder, {**train, "validate#dataset#data": []})
        patients = self.patients.test if cell.scored == "test" else self.patients.tuning
        evaluation = {
            **train,
            "output_dir": str(folder / "evaluate"),
            "validate#dataset#data": self.patients.items(patients),
        }
        self._run(["train", "evaluate"], folder, evaluation)
        row = {**cell.__dict__, "trained_steps": steps, "cpu_seconds": round(seconds, 1)}
        row |= scores(folder / "evaluate" / "evaluation_cases.csv", patients)
        shutil.rmtree(folder)
        return row

    def curve(self, cell: Cell, points: int = 8) -> list[dict[str, Any]]:
        """Dice on the tuning patients along a fine-tuning."""
        arm, folder = self.arms[cell.arm], self.work / "curves" / "_".join(cell.key)
        pretrained = str(self.pretrain(arm, cell.pretraining)) if arm.pretrain is not None else None
        overrides = self._fine_tuning(cell, folder, pretrained, cell.steps)
        overrides |= {"validate#dataset#data": self.patients.items(self.patients.tuning)}
        overrides |= {"steps_per_epoch": cell.steps // points, "epochs": points, "val_interval": 1}
        self._run(["train"], folder, overrides)
        with (folder / "train" / "validation.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        shutil.rmtree(folder)
        step = cell.steps // points
        return [
            {**cell.__dict__, "step": int(row["epoch"]) * step, "dice": round(float(row["val_mean_dice"]), 4)}
            for row in rows
        ]

    def _extra_steps(self, cell: Cell) -> int:
        """Fine-tuning steps that take the time of a pre-training."""
        hybrid = self.arms["hybridmim"]
        self.pretrain(hybrid, cell.pretraining)
        done = json.loads((self.work / "pretrained" / f"{hybrid.name}_{cell.pretraining}" / "done.json").read_text())
        path = self.work / "seconds_per_training_step.json"
        if not path.is_file():
            seconds = {}
            for steps in (50, 10):
                folder = self.work / "cost" / f"train_{steps}"
                overrides = self._fine_tuning(cell, folder, None, steps)
                overrides |= {"steps_per_epoch": steps, "epochs": 1, "validate#dataset#data": []}
                seconds[steps] = self._run(["train"], folder, overrides)
                shutil.rmtree(folder)
            path.write_text(json.dumps((seconds[50] - seconds[10]) / 40), encoding="utf-8")
        extra = done["cpu_seconds"] / json.loads(path.read_text())
        return round(extra / STEPS_PER_EPOCH) * STEPS_PER_EPOCH

    def _fine_tuning(self, cell: Cell, folder: Path, pretrained: str | None, steps: int) -> Overrides:
        return {
            **self._places(folder, "train"),
            "train#dataset#data": self.patients.items(self.patients.labelled(cell.labels, cell.seed)),
            "pretrained": pretrained,
            "seed": cell.seed,
            "learning_rate": cell.learning_rate,
            "epochs": steps // STEPS_PER_EPOCH,
            "steps_per_epoch": STEPS_PER_EPOCH,
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
        """Run a bundle's config in this process, its output in a file; CPU seconds of the run itself."""
        from monai.bundle import ConfigWorkflow

        folder.mkdir(parents=True, exist_ok=True)
        files = [str(self.bundle / "configs" / f"{name}.json") for name in configs]
        with _output_to(folder / f"{configs[-1]}.log"):
            workflow = ConfigWorkflow(files, workflow_type="train", logging_file=False, **overrides)
            workflow.initialize()
            started = time.process_time()
            workflow.run()
            workflow.finalize()
        return time.process_time() - started


def scores(path: Path, patients: Sequence[str]) -> dict[str, Any]:
    """Means of an evaluation over patients and classes, and each patient's, in the order of the ids.

    A class that is absent from a patient's truth is left out of that patient's mean.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["label_voxels"]) > 0]
    found: dict[str, Any] = {}
    for name, column, digits in (("dice", "dice", 4), ("hd95_mm", "hd95_mm", 2)):
        values = {i: [float(r[column]) for r in rows if r["case"] == i] for i in patients}
        means = [sum(v) / len(v) for v in values.values()]
        found[name] = round(sum(means) / len(means), 5)
        found[f"{name}_by_patient"] = ";".join(f"{mean:.{digits}f}" for mean in means)
    return found


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send what this process writes to a file; what was to be seen on the command line is not a run's log."""
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
