# SPDX-License-Identifier: Apache-2.0

"""The SLURM script of docs/how_to with stand-ins for SLURM: two torchruns, a time that runs out, the next job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fault_runs import Run, children, free_port

from hybridmim_components.phantoms import write_phantoms

SCRIPT = Path(__file__).parents[2] / "docs" / "how_to" / "pretrain.sbatch"
COMMANDS = {
    # two machines; a signal reaches both, as that of SLURM does
    "srun": 'shift; export SLURM_LOCALID=0 SLURM_NTASKS=2 SLURM_PROCID=0; "$@" & one=$!; '
    'SLURM_PROCID=1 "$@" & two=$!; trap "kill -TERM $one $two" TERM; '
    "wait $one; status=$?; wait $one $two; exit $(($status + $?))",
    "scontrol": 'if [ "$1" = show ]; then echo localhost; else echo "$2" > "$REQUEUED"; fi',
    "squeue": 'echo "$LEFT"',
}


@pytest.fixture
def job(tmp_path: Path) -> Run:
    """A run whose command is the script."""
    (tmp_path / "bin").mkdir()
    for name, text in COMMANDS.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    write_phantoms("msd_spleen", tmp_path / "data", 6, 1, 4, size=(48, 48, 40), spacing=(6.0, 6.0, 6.5))
    return Run(tmp_path, "pretrain", "slurm", processes=2, epochs=12, val_fraction=0.4)


def start(job: Run, tmp_path: Path, left: str) -> subprocess.Popen[bytes]:
    named = {"bundle_root": "BUNDLE", "dataset_dir": "DATA", "output_dir": "RUN"}
    environment = {name: str(job.knobs[key]) for key, name in named.items()}
    environment |= {"SLURM_JOB_NODELIST": "x", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "7", "LEFT": left}
    environment |= {"PORT": str(free_port()), "PROCESSES": "1", "REQUEUED": str(tmp_path / "requeued")}
    environment["PATH"] = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    words = [w for k, v in job.knobs.items() if k not in (*named, "ckpt_dir") for w in (f"--{k}", str(v))]
    with job.log.open("ab") as log:
        return subprocess.Popen(
            ["bash", str(SCRIPT), *words],
            stdout=log,
            stderr=log,
            env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
        )


@pytest.mark.full
def test_a_job_whose_time_is_up_goes_on_in_the_next_one(job: Run, tmp_path: Path) -> None:
    process = start(job, tmp_path, left="9:58")
    job.wait_for((job.folder / "training.csv").exists, process)
    (srun,) = children(process.pid)
    os.kill(srun, signal.SIGTERM)
    assert process.wait() == 0 and (tmp_path / "requeued").read_text().strip() == "7", job.text()[-3000:]
    content = torch.load(job.checkpoints()[0], weights_only=True)
    assert not content["finished"], "saved because of the signal: checkpoint_minutes is not over"
    assert start(job, tmp_path, left="23:50:00").wait() == 0, job.text()[-3000:]
    assert "Going on after step" in job.text() and job.result()["best"]


@pytest.mark.full
def test_a_job_that_fails_is_not_queued_again(job: Run, tmp_path: Path) -> None:
    job.knobs["epochs"] = -1
    assert start(job, tmp_path, left="23:50:00").wait() != 0
    assert not (tmp_path / "requeued").exists()
