# SPDX-License-Identifier: Apache-2.0

"""Measure what faults cost a run: kill, starve or corrupt a command that a user typed, and start it again.

    python benchmarks/faults.py --output benchmarks/results/faults.csv    # half an hour; --kills sets how many

Each fault hits the pre-training or the training of a small network on phantoms. Then the same command is started again.
Its weights and the optimiser's moments are compared, bit by bit, with those of an uninterrupted run. The script ends
with status 1 if anything was lost. The times of the faults are random, drawn from --seed.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from fault_inputs import ckpt_dir, dicom_series, mutated_files, odd_images, strange_cases
from fault_runs import Row, Run, children, fill, free_port, kill_machine, rank_one, same, small_disk, swap

from hybridmim_components.phantoms import write_phantoms
from hybridmim_components.system.stop_signals import EXIT_CODE

COLUMNS = ("fault", "step", "how", "what happened", "lost")


class Faults:
    """All faults, one row each; ``whole`` holds the results of the uninterrupted runs."""

    def __init__(self, work: Path, kills: int, seed: int) -> None:
        self.work, self.kills, self.random = work, kills, random.Random(seed)
        write_phantoms("msd_spleen", work / "data", 6, 1, 4, size=(48, 48, 40), spacing=(6.0, 6.0, 6.5))
        self.whole: dict[str, Any] = {}

    def verdict(self, run: Run, key: str = "") -> str:
        """Start the run again, wait for its end, and compare its result."""
        code = run.finish()
        if code:
            return f"the next start ended with {code}"
        return "nothing" if same(run.result(), self.uninterrupted(run, key)) else "weights differ"

    def uninterrupted(self, run: Run, key: str = "") -> Any:
        """Return the result of the same command without a fault."""
        key = f"{run.step}{key}"
        if key not in self.whole:
            alone = Run(self.work, run.step, f"whole{key}", processes=run.processes)
            alone.bundle = run.bundle
            alone.knobs = {**run.knobs, "output_dir": alone.folder, "ckpt_dir": alone.folder / "models"}
            if alone.finish():
                raise RuntimeError(alone.text()[-3000:])
            self.whole[key] = alone.result()
        return self.whole[key]

    def killed(self, step: str, backbone: str = "unet", epochs: int = 60, kills: int | None = None) -> Row:
        """Kill a run repeatedly: in turn during steps, validation and saving, and at any time after its start."""
        kills = kills or self.kills
        key = f"_{backbone}"
        run = Run(self.work, step, f"killed{key}", backbone, checkpoint_minutes=0, epochs=epochs)
        self.uninterrupted(run, key)
        done, in_training, to_first_step = 0, 0, 0.0
        for number in range(kills):
            before = run.newest()
            process = run.start()
            if number % 2:
                time.sleep(self.random.uniform(0.1, 1.1) * to_first_step)
            else:
                start = time.monotonic()
                run.wait_for(run.newer_than(before), process)
                to_first_step = time.monotonic() - start
                time.sleep(self.random.uniform(0, 0.3))
            in_training += run.newest() != before
            if process.poll() is not None:  # the run has ended before the kill
                break
            done += 1
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        lost = self.verdict(run, key)
        resumed = run.text().count("Going on after step")
        what = f"{resumed} starts went on from a checkpoint, {in_training} kills after that start had saved one"
        return Row(
            "kill -9",
            f"{step}, {backbone}",
            f"{done} kills at random instants, every other one amid training",
            what,
            lost,
        )

    def told_to_stop(self, number: signal.Signals, step: str) -> Row:
        """Send SIGTERM as a scheduler does, or SIGINT as Ctrl-C does."""
        run = Run(self.work, step, number.name, num_workers=2)
        process = run.start()
        run.wait_for((run.folder / "training.csv").exists, process)
        os.killpg(process.pid, number)
        code = process.wait()
        what = f"exit code {code}, saved {run.newest() or 'nothing'}"
        lost = self.verdict(run) if code == EXIT_CODE else f"exit code {code}"
        return Row(number.name, step, "once, to the run and its 2 workers, amid an epoch", what, lost)

    def worker(self) -> Row:
        """Kill the processes that load data, as the system does when memory runs out."""
        run = Run(self.work, "train", "worker", num_workers=2, epochs=20)
        process = run.start()
        run.wait_for((run.folder / "training.csv").exists, process)
        while process.poll() is None:  # again, since the run does not miss a worker with nothing left to load
            for child in children(process.pid)[:1]:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.2)
        code = process.wait()
        told = "a process that loads data has died" in run.text()
        what = f"exit code {code}, {'told' if told else 'NOT told'}, saved {run.checkpoints()[0].name}"
        lost = self.verdict(run, "_worker") if told and code else "no clear end"
        return Row("dead data worker", "train", "kill -9 of one of 2 workers", what, lost)

    def corrupt(self) -> Row:
        """Damage the newest checkpoint."""
        run = Run(self.work, "train", "corrupt", checkpoint_minutes=0)
        process = run.start()
        run.wait_for(lambda: len(run.checkpoints()) == 2, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        newest = run.checkpoints()[0]
        newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
        lost = self.verdict(run)
        told = f"cannot read the checkpoint {newest}" in run.text()
        return Row("corrupt checkpoint", "train", "the newest cut in half", "told by name, went on from the one before",
                   lost if told else "not told")  # fmt: skip

    def disk(self, folder: Path) -> Row:
        """Fill the disk during training."""
        run = Run(self.work, "train", "disk", checkpoint_minutes=0, output_dir=folder, ckpt_dir=folder / "models")
        run.folder = folder
        process = run.start()
        run.wait_for(lambda: run.checkpoints(), process)
        fill(folder)
        code = process.wait()
        (folder / "filler").unlink()
        errors = len(re.findall("No checkpoint at step", run.text()))
        readable = torch.load(run.checkpoints()[0], weights_only=True)["trainer"]["iteration"]
        what = f"exit code {code}, {errors} checkpoints not written and told, the last one (step {readable}) intact"
        return Row("disk full", "train", "a tmpfs of 64 MB filled amid training, then freed", what, self.verdict(run))

    def not_a_number(self) -> Row:
        """Replace the images by NaN during training."""
        run = Run(self.work, "train", "nan", dataset_dir=self._copy("nan"), max_non_finite_steps=3, epochs=30)
        process = run.start()
        run.wait_for((run.folder / "training.csv").exists, process)
        for path in Path(run.knobs["dataset_dir"]).glob("imagesTr/*.nii.gz"):
            image: Any = nib.load(path)
            swap(path, nib.Nifti1Image(np.full(image.shape, np.nan, np.float32), image.affine))
        code = process.wait()
        found = re.search(r"error: (loss or gradients .*? in a row), the last on (\S+\.nii\.gz)", run.text())
        weights = torch.load(run.checkpoints()[0], weights_only=True)["state"]["network"].values()
        finite = all(bool(torch.isfinite(w).all()) for w in weights)
        what = f"exit code {code}: {found[1] if found else 'not told'}; volumes {'named' if found else 'not named'}"
        return Row("NaN loss", "train", "all images replaced by NaN amid training", what,
                   "nothing" if found and finite and code == 1 else "weights or message")  # fmt: skip

    def unreadable(self, skip: bool) -> Row:
        """Damage images during pre-training."""
        data = self._copy(f"unreadable_{skip}")
        run = Run(self.work, "pretrain", f"unreadable_{skip}", dataset_dir=data, epochs=20, skip_unreadable=skip)
        process = run.start()
        run.wait_for((run.folder / "training.csv").exists, process)
        seen = set(re.findall(r"imagesTr/\S+\.nii\.gz", run.text()))
        originals = {path: path.read_bytes() for path in data.glob("imagesTr/*.nii.gz")}
        for path, content in originals.items():
            swap(path, content[: len(content) // 2])
        code = process.wait()
        named = set(re.findall(r"cannot use (\S+\.nii\.gz)", run.text())) - seen
        fine = bool(named) and (code == 0) == skip
        what = f"exit code {code}, {'skipped' if skip else 'named'}: {len(named)} volume(s)"
        if fine and not skip:
            for path, content in originals.items():
                path.write_bytes(content)
            fine = run.finish() == 0
            what += "; went on when it was mended"
        how = f"labelled images cut in half amid training, skip_unreadable {str(skip).lower()}"
        return Row("unreadable volume", "pretrain", how, what, "nothing" if fine else "no clear end")

    def rank(self, restarts: int) -> Row:
        """Kill one of two processes."""
        run = Run(self.work, "train", f"rank_{restarts}", processes=2, checkpoint_minutes=0, epochs=12)
        self.uninterrupted(run, "_two")
        process = run.start((f"--max-restarts={restarts}",))
        run.wait_for(lambda: len(run.checkpoints()) == 2, process)
        os.kill(rank_one(process.pid), signal.SIGKILL)
        start = time.monotonic()
        code = process.wait()
        if restarts:
            fine = code == 0 and same(run.result(), self.uninterrupted(run, "_two"))
            what = f"exit code {code}, went on by itself {run.text().count('Going on after step')} time(s)"
            return Row("dead rank", "train", "kill -9 of rank 1 of 2, --max-restarts=1", what,
                       "nothing" if fine else "weights differ")  # fmt: skip
        seconds = time.monotonic() - start
        what = f"exit code {code} after {seconds:.0f} s"
        lost = self.verdict(run, "_two") if code and seconds < 60 else "no clear end"
        return Row("dead rank", "train", "kill -9 of rank 1 of 2", what, lost)

    def machines(self, step: str, fault: str) -> Row:
        """Run on two machines, that is two torchruns with a c10d rendezvous; kill nothing, a process or a machine."""
        run = Run(self.work, step, fault.replace(" ", "_"), processes=2, checkpoint_minutes=0, epochs=12)
        run.knobs |= {"val_fraction": 0.4} if step == "pretrain" else {}  # a volume for each process
        self.uninterrupted(run, "_two")

        def start(restarts: int) -> list[subprocess.Popen[bytes]]:
            where = f"--rdzv-endpoint=localhost:{free_port()}"
            how = ("--nnodes=2", "--nproc_per_node=1", "--rdzv-backend=c10d", where, f"--max-restarts={restarts}")
            return [run.start((*how, f"--rdzv-conf=is_host={host}")) for host in (1, 0)]

        machines = start(restarts=0 if fault == "dead machine" else 2)
        if fault != "two machines":
            run.wait_for(lambda: len(run.checkpoints()) == 2, machines[0])
        if fault == "dead process":
            os.kill(children(machines[1].pid)[0], signal.SIGKILL)
        if fault == "dead machine":
            kill_machine(machines[1])
        codes = [machine.wait() for machine in machines]
        what = f"exit codes {codes[0]} and {codes[1]}"
        if fault == "dead machine" and all(codes):  # start both again, as a scheduler does
            codes = [machine.wait() for machine in start(restarts=0)]
            what += f", then, both started again, {codes[0]} and {codes[1]}"
        what += f"; went on {run.text().count('Going on after step')} time(s)"
        fine = not any(codes) and same(run.result(), self.uninterrupted(run, "_two"))
        how = {"two machines": "nothing", "dead process": "kill -9 of one, --max-restarts=2"}
        return Row(fault, f"{step}, two torchruns", how.get(fault, "kill -9 of one and all its processes"), what,
                   "nothing" if fine else "weights differ")  # fmt: skip

    def second_run(self, when: str) -> Row:
        """Start a second run, with another seed, in the folder of a run."""
        run = Run(self.work, "train", f"second_{when}", epochs=20)
        self.uninterrupted(run, "_twenty")
        process = run.start()
        if when == "amid":
            run.wait_for((run.folder / "training.csv").exists, process)
        other = Run(self.work, "train", f"intruder_{when}", epochs=20)
        other.knobs |= {"seed": 1, "output_dir": run.folder, "ckpt_dir": run.folder / "models"}
        codes = {other: other.finish(), run: process.wait()}
        winner, loser = sorted(codes, key=codes.__getitem__)
        told = bool(
            re.search(rf"error: output_dir {run.folder} is in use by process \d+ on host \S+ since", loser.text())
        )
        alone = self.uninterrupted(run, "_twenty") if winner is run else None
        fine = codes[winner] == 0 and codes[loser] == 1 and told and (alone is None or same(run.result(), alone))
        what = f"exit codes {codes[winner]} and {codes[loser]}, {'told' if told else 'NOT told'} whose the folder is"
        how = "two runs with other seeds in one output_dir, " + ("at once" if when == "once" else "one amid the other")
        return Row("second run", "train", how, what, "nothing" if fine else "a run")

    def _copy(self, name: str) -> Path:
        target = self.work / f"data_{name}" / "Task09_Spleen"
        shutil.copytree(self.work / "data" / "Task09_Spleen", target)
        return target

    def all(self, only: str) -> Iterator[Row]:
        """Yield the rows of the faults whose name matches a pattern."""
        rows: list[tuple[str, Callable[[], Row]]] = [
            ("killed", lambda: self.killed("pretrain")),
            ("killed", lambda: self.killed("train")),
            ("killed_swinunetr", lambda: self.killed("pretrain", "swinunetr", 8, max(1, self.kills // 4))),
            ("stop", lambda: self.told_to_stop(signal.SIGTERM, "pretrain")),
            ("stop", lambda: self.told_to_stop(signal.SIGINT, "train")),
            ("worker", self.worker),
            ("corrupt", self.corrupt),
            ("nan", self.not_a_number),
            ("unreadable", lambda: self.unreadable(False)),
            ("unreadable", lambda: self.unreadable(True)),
            ("rank", lambda: self.rank(0)),
            ("rank", lambda: self.rank(1)),
            ("second_run", lambda: self.second_run("once")),
            ("second_run", lambda: self.second_run("amid")),
            ("ckpt_dir", lambda: ckpt_dir(self.work)),
            ("dicom", lambda: dicom_series(self.work)),
            ("odd_images", lambda: odd_images(self.work)),
            ("mutated", mutated_files),
            ("strange", lambda: strange_cases(self.work)),
            ("machines", lambda: self.machines("pretrain", "two machines")),
            ("machines", lambda: self.machines("train", "dead process")),
            ("machines", lambda: self.machines("pretrain", "dead machine")),
        ]
        for name, fault in rows:
            if re.fullmatch(only, name):
                yield fault()
        if re.fullmatch(only, "disk"):
            with small_disk(self.work / "disk") as folder:
                if folder is None:
                    print("disk full: left out, since a tmpfs cannot be mounted here (it needs root)", file=sys.stderr)
                else:
                    yield self.disk(folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--output", type=Path, help="CSV file, a row per fault")
    parser.add_argument("--kills", type=int, default=20, help="kills of each step")
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument("--only", default=".*", help="pattern of names: killed, stop, worker, nan, second_run, ...")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows = []
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|", flush=True)
    with tempfile.TemporaryDirectory() as work:
        for row in Faults(Path(work), options.kills, options.seed).all(options.only):
            rows.append(row)
            print("| " + " | ".join(row) + " |", flush=True)
            if options.output:
                options.output.parent.mkdir(parents=True, exist_ok=True)
                with options.output.open("w", newline="", encoding="utf-8") as file:
                    csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    sys.exit(any(row.lost != "nothing" for row in rows))


if __name__ == "__main__":
    main()
