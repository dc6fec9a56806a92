# SPDX-License-Identifier: Apache-2.0

"""The cells of few_labels.py inside nnU-Net: its planning, preprocessing, training and inference, with a small network.

nnU-Net's own planner makes the plans. The study uses them with a quarter of the features and batches of 2, so that two
processor cores can train it. All else is nnU-Net's: loss, augmentation, deep supervision, schedule and sliding window.
Both arms use nnUNetTrainerAdam, each with its own learning rate: 250 iterations of nnU-Net's usual SGD at 0.01 leave
both at Dice 0, and 0.03 does not help scratch (two labels, one seed). Inference uses no mirroring.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from few_labels_arms import Arm
from few_labels_cells import STEPS_PER_EPOCH, Cell, Overrides, Study, output_to, scores
from rows import add_rows

from hybridmim_components.system.files import write_text
from hybridmim_components.workflow.segmentation_scores import ClassScore, segmentation_scores

__all__ = ["BUNDLE", "NnunetStudy"]

BUNDLE = "msd_hippocampus_nnunet"
DATASET, PLANS, CONFIGURATION = "Dataset004_Hippocampus", "nnUNetPlans_small", "3d_fullres"
CLASSES = ("anterior", "posterior")
FEWER_FEATURES, BATCH_SIZE = 4, 2
NNUNET_EPOCHS = 10  # nnU-Net changes the learning rate once an epoch


class NnunetStudy(Study):
    """The study's cells with nnU-Net's own network and trainer, see :class:`Study`.

    The environment must contain nnunetv2 (``ci/nnunet/requirements.lock``).
    """

    def __init__(self, dataset_dir: str, work: Path, costs: Path, pretraining_minutes: float) -> None:
        super().__init__("msd_hippocampus_unet", dataset_dir, work / "nnunet", costs, pretraining_minutes)
        for name in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{name}"] = str(self.work / name)
        # one process and no threads beside it, so that cells repeat and several can run at once
        os.environ |= {"nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "0", "nnUNet_compile": "f"}
        self._plan_and_preprocess()

    @property
    def _preprocessed(self) -> Path:
        return self.work / "preprocessed" / DATASET

    def _plan_and_preprocess(self) -> None:
        """Run nnU-Net's planner and preprocessing on all cases, once; hold test and tuning patients out of fold 0."""
        plans = self._preprocessed / f"{PLANS}.json"
        if plans.is_file():
            return
        raw = self.work / "raw" / DATASET
        shutil.rmtree(raw, ignore_errors=True)
        for folder in ("imagesTr", "labelsTr"):
            (raw / folder).mkdir(parents=True)
        for name, case in self.patients.cases.items():
            (raw / "imagesTr" / f"{name}_0000.nii.gz").symlink_to(Path(case["image"]).resolve())
            (raw / "labelsTr" / f"{name}.nii.gz").symlink_to(Path(case["label"]).resolve())
        labels = {"background": 0} | {name: value for value, name in enumerate(CLASSES, 1)}
        description = {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz"}
        write_text(raw / "dataset.json", json.dumps({**description, "numTraining": len(self.patients.cases)}))
        command = [str(Path(sys.executable).with_name("nnUNetv2_plan_and_preprocess")), "-d", "4", "-c", CONFIGURATION]
        # nnU-Net's planner takes it for a number of processes and fails at 0
        environment = {name: value for name, value in os.environ.items() if name != "nnUNet_n_proc_DA"}
        subprocess.run([*command, "-npfp", "1", "-np", "1"], check=True, env=environment)
        content = json.loads((self._preprocessed / "nnUNetPlans.json").read_text(encoding="utf-8"))
        content["plans_name"] = PLANS
        configuration = content["configurations"][CONFIGURATION]
        kwargs = configuration["architecture"]["arch_kwargs"]
        kwargs["features_per_stage"] = [n // FEWER_FEATURES for n in kwargs["features_per_stage"]]
        configuration["batch_size"] = BATCH_SIZE
        pool, others = (
            [case for patient in patients for case in self.patients.of[patient]]
            for patients in (self.patients.pool, [*self.patients.test, *self.patients.tuning])
        )
        write_text(self._preprocessed / "splits_final.json", json.dumps([{"train": pool, "val": others}]))
        write_text(plans, json.dumps(content, indent=4))

    def pretrain(self, name: str, seed: int) -> Path:
        """Return the pre-trained weights of an arm, and pre-train first if needed."""
        from hybridmim_components.nnunet.pretraining import CHECKPOINT

        return super().pretrain(name, seed).parents[2] / "pretrain" / CHECKPOINT

    def _pretraining(self, arm: Arm, folder: Path, seed: int, steps: int) -> Overrides:
        return {
            "output": str(folder / "pretrain"),
            "seed": seed,
            "epochs": steps // STEPS_PER_EPOCH,
            "steps_per_epoch": STEPS_PER_EPOCH,
            "val_interval": 10,
            "device": "cpu",
            "num_workers": 0,
            "learning_rate": 0.002,  # as the bundle with a network of this size
            **(arm.pretrain or {}),
        }

    def _run(self, configs: Sequence[str], folder: Path, overrides: Overrides) -> float:
        """Pre-train by ``python -m hybridmim_components nnunet``, in this process; return the CPU seconds."""
        from hybridmim_components.nnunet import pretrain

        folder.mkdir(parents=True, exist_ok=True)
        with output_to(folder / "pretrain.log"):
            started = time.process_time()
            pretrain(DATASET, plans=PLANS, configuration=CONFIGURATION, fold=0, **overrides)
        return time.process_time() - started

    def score(self, cell: Cell) -> dict[str, Any]:
        """Train and score a cell by nnU-Net; return its row of the table."""
        source = self.arms[cell.arm].pretrained_by
        checkpoint = self.pretrain(source, cell.seed) if source else None
        patients = self.patients.test if cell.scored == "test" else self.patients.tuning
        scored = {patient: self.patients.of[patient] for patient in patients}
        labelled = [item["case_id"] for item in self.patients.labelled(cell.labels, cell.seed)]
        folder = self.work / "cells" / "_".join(cell.key)
        folder.mkdir(parents=True, exist_ok=True)
        with output_to(folder / "train.log"):
            started = time.process_time()
            trainer = self._trainer(cell, labelled, [case for cases in scored.values() for case in cases], folder)
            trainer.initialize()
            if checkpoint:
                from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

                load_pretrained_weights(trainer.network, str(checkpoint), verbose=False)
            trainer.run_training()
            seconds = time.process_time() - started
            trainer.perform_actual_validation()
        row = {**cell.__dict__, "cpu_seconds": round(seconds, 1)}
        row |= self._scores(folder / "validation", scored)
        shutil.rmtree(folder)
        return row

    @cached_property
    def _trainer_class(self) -> type:
        from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import nnUNetTrainerAdam

        class FewLabels(nnUNetTrainerAdam):
            """nnU-Net's trainer with other cases, and without mirrored inference."""

            split: tuple[list[str], list[str]]

            def do_split(self) -> tuple[list[str], list[str]]:
                return self.split

            def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> Any:  # noqa: N802
                settings = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
                self.inference_allowed_mirroring_axes = None
                return settings

            def plot_network_architecture(self) -> None:
                """Draw nothing."""

        return FewLabels

    def _trainer(self, cell: Cell, labelled: list[str], scored: list[str], folder: Path) -> Any:
        for seeded in (random.seed, np.random.seed, torch.manual_seed):
            seeded(cell.seed)
        plans = json.loads((self._preprocessed / f"{PLANS}.json").read_text(encoding="utf-8"))
        description = json.loads((self._preprocessed / "dataset.json").read_text(encoding="utf-8"))
        plans["continue_training"] = False  # as nnUNetv2_train without --c
        trainer = self._trainer_class(plans, CONFIGURATION, 0, description, torch.device("cpu"))
        trainer.split = (labelled, scored)
        trainer.initial_lr = cell.learning_rate
        trainer.num_epochs = NNUNET_EPOCHS
        trainer.num_iterations_per_epoch = cell.steps // NNUNET_EPOCHS
        trainer.num_val_iterations_per_epoch = 1  # it chooses nothing
        trainer.disable_checkpointing = True
        trainer.output_folder = str(folder)
        trainer.log_file = str(folder / "nnunet.log")
        return trainer

    def _scores(self, folder: Path, patients: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Return mean and figure of each patient, from the masks that nnU-Net wrote."""
        rows = [
            {"case": case, **vars(score)}
            for cases in patients.values()
            for case in cases
            for score in self._case_scores(case, folder)
        ]
        add_rows(folder / "evaluation_cases.csv", rows)
        return scores(folder / "evaluation_cases.csv", patients)

    def _case_scores(self, case: str, folder: Path) -> list[ClassScore]:
        paths = folder / f"{case}.nii.gz", Path(self.patients.cases[case]["label"])
        images = [nibabel.load(path) for path in paths]
        predicted, truth = (torch.from_numpy(np.asarray(image.dataobj).astype(np.int16)) for image in images)
        values = torch.arange(1, len(CLASSES) + 1).view(-1, 1, 1, 1)
        spacing = [float(mm) for mm in images[1].header.get_zooms()[:3]]
        return segmentation_scores(predicted == values, truth == values, spacing, CLASSES)
