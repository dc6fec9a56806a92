# SPDX-License-Identifier: Apache-2.0

"""The multi_gpu overlays, on two CPU processes that torchrun starts."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.handlers import CheckpointSaver, StatsHandler

from hybridmim_components.workflow.distributed import handlers_of_rank, local_device, rank, start
from hybridmim_components.workflow.handlers import TerminalProgressBar

pytestmark = pytest.mark.slow
CONFIGS = {
    "pretrain": ["pretrain", "multi_gpu_pretrain"],
    "train": ["train", "multi_gpu_train"],
    "evaluate": ["train", "evaluate", "multi_gpu_evaluate"],
}


def torchrun(bundle, step: str, cwd: Path, **overrides: object) -> None:
    files = [str(bundle.path / "configs" / f"{name}.json") for name in CONFIGS[step]]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "monai.bundle", "run", "--config_file", str(files), "--bundle_root", str(bundle.path)]
    small = {k: v for k, v in bundle.small(step).items() if k != "device"}
    for key, value in {**small, **overrides}.items():
        command += [f"--{key}", str(value)]
    # in a job of SLURM, whose numbers ignite must not take for those of these processes
    environment = {**os.environ, "SLURM_JOB_ID": "7"}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, f"{step}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"


def cases(path: Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return sorted(csv.reader(file))


def test_two_processes_pretrain_train_and_evaluate(spleen, phantoms: Callable, step: Callable, tmp_path: Path) -> None:
    data, models = phantoms("msd_spleen"), tmp_path / "models"
    places = {"dataset_dir": data.dataset_dir, "ckpt_dir": models}
    weights = models / "pretrained" / "model.pt"
    pool = {"unlabelled_dirs": data.unlabelled_dir, "val_fraction": 0.3}
    torchrun(spleen, "pretrain", tmp_path, **places, **pool, output_dir=tmp_path / "pretrain")
    torchrun(spleen, "train", tmp_path, **places, output_dir=tmp_path / "train", pretrained=weights)
    for name in ("pretrain", "train"):
        with open(tmp_path / name / "training.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        # rank 0 alone writes; two processes take no more steps than one
        assert [(r["epoch"], r["iteration"]) for r in rows] == [("1", "2"), ("2", "4")]
    assert not any(key.startswith("module.") for key in torch.load(models / "model.pt", weights_only=True))
    torchrun(spleen, "evaluate", tmp_path, **places, output_dir=tmp_path / "two", report=tmp_path / "two")
    assert (tmp_path / "two" / "report.html").is_file()
    done = step(spleen, "evaluate", **places, output_dir=tmp_path / "one")
    assert done.returncode == 0, done.stderr
    for name in ("cases", "summary"):
        assert cases(tmp_path / "two" / f"evaluation_{name}.csv") == cases(tmp_path / "one" / f"evaluation_{name}.csv")


def test_without_torchrun_the_overlay_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(RuntimeError, match="need several processes: start them by torchrun"):
        start()
    assert rank() == 0 and local_device().type in ("cpu", "cuda")


def test_ranks_above_0_do_not_log(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = [
        StatsHandler(),
        TerminalProgressBar("x"),
        CheckpointSaver("x", {"a": torch.nn.Linear(1, 1)}, save_final=True),
    ]
    assert handlers_of_rank(handlers) == handlers
    monkeypatch.setattr("hybridmim_components.workflow.distributed.rank", lambda: 1)
    assert handlers_of_rank(handlers) == handlers[2:]
