# SPDX-License-Identifier: Apache-2.0

"""Small runs of a bundle by a user's command, and faults of their files and processes, for faults.py."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import torch

__all__ = ["Row", "Run", "children", "fill", "free_port", "kill_machine", "rank_one", "same", "small_disk", "swap"]

ROOT = Path(__file__).resolve().parents[1]
SMALL: dict[str, dict[str, Any]] = {
    "unet": {"roi_size": [48, 48, 48], "network_def#features": [4, 4, 4, 8, 8, 4]},
    "swinunetr": {"roi_size": [64, 64, 64], "network_def#feature_size": 12, "network_def#depths": [1, 1, 1, 1]},
}
MASKS = {
    "unet": {"subvolume_size": [16, 16, 16], "patch_size": [8, 8, 8]},
    "swinunetr": {"subvolume_size": [32, 32, 32], "patch_size": [16, 16, 16]},
}


class Row(NamedTuple):
    """One line of the table; ``lost`` is ``nothing`` if all is well."""

    fault: str
    step: str
    how: str
    what_happened: str
    lost: str


class Run:
    """Run of one command, with an output folder of its own."""

    def __init__(
        self, work: Path, step: str, name: str, backbone: str = "unet", processes: int = 0, **knobs: Any
    ) -> None:
        self.work, self.step, self.processes = work, step, processes
        self.folder = work / f"{step}_{name}"
        self.bundle = ROOT / "bundles" / f"hybridmim_msd_spleen_{backbone}_segmentation"
        self.log = work / f"{step}_{name}.log"
        self.knobs: dict[str, Any] = {
            "bundle_root": self.bundle,
            "dataset_dir": work / "data" / "Task09_Spleen",
            "output_dir": self.folder,
            "ckpt_dir": self.folder / "models",
            "spacing": [6.0, 6.0, 6.0],
            "num_workers": 0,
            "cache": "none",
            "batch_size": 2,
            "crops_per_volume": 1,
            "learning_rate": 0.01,
            "val_interval": 2,
            "epochs": 6,
            "steps_per_epoch": 3,
            **SMALL[backbone],
        }
        if step == "pretrain":
            self.knobs |= {"unlabelled_dirs": work / "data" / "unlabelled", **MASKS[backbone]}
        if not processes:
            self.knobs["device"] = "cpu"
        self.knobs |= knobs

    def command(self, torchrun: tuple[str, ...] = ()) -> list[str]:
        """Return the command as a user types it."""
        configs = [str(self.bundle / "configs" / f"{self.step}.json")]
        launcher = [sys.executable]
        if self.processes:
            configs.append(str(self.bundle / "configs" / f"multi_gpu_{self.step}.json"))
            one_machine = ("--standalone", f"--nproc_per_node={self.processes}")
            several = any(word.startswith("--nnodes") for word in torchrun)
            launcher += ["-m", "torch.distributed.run", *(() if several else one_machine), *torchrun]
        words = [word for key, value in self.knobs.items() for word in (f"--{key}", str(value))]
        files = configs[0] if len(configs) == 1 else str(configs)
        return [*launcher, "-m", "monai.bundle", "run", "--config_file", files, *words]

    def start(self, torchrun: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """Start the command in a process group of its own."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command(torchrun), stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd="/"
            )

    def finish(self) -> int:
        """Start the command and wait for its end."""
        return self.start().wait()

    def text(self) -> str:
        """Return what all starts so far have printed."""
        return self.log.read_text(errors="replace")

    def checkpoints(self) -> list[Path]:
        """List the checkpoints, the newest first."""
        return sorted((self.folder / "checkpoints").glob("step_*.pt"), reverse=True)

    def newest(self) -> str:
        """Return the name of the newest checkpoint, empty if there is none."""
        return next((path.name for path in self.checkpoints()), "")

    def newer_than(self, name: str) -> Callable[[], bool]:
        """Return a function that tells whether the newest checkpoint is another one."""
        return lambda: self.newest() != name

    def wait_for(self, is_so: Callable[[], Any], process: subprocess.Popen[bytes], seconds: float = 300) -> None:
        """Wait for a condition while a process runs."""
        end = time.monotonic() + seconds
        while not is_so():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(
                    f"{self.log}: the run ended, or took too long, before the fault:\n{self.text()[-2000:]}"
                )
            time.sleep(0.02)

    def result(self) -> dict[str, Any]:
        """Return the state of the finished run, and the weights that it has saved."""
        content = torch.load(self.checkpoints()[0], weights_only=True)
        if not content["finished"]:
            raise RuntimeError(f"{self.folder}: not finished")
        path = "pretrained/model.pt" if self.step == "pretrain" else "model.pt"
        content["state"].pop("best_weights")
        best = torch.load(self.folder / "models" / path, weights_only=True)
        return {"state": content["state"], "best": best.get("state_dict", best)}


def same(one: Any, other: Any) -> bool:
    """Return whether two states are equal, bit by bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """Mount a disk of 64 MB; give None if that is not allowed."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True).returncode:
        yield None
        return
    try:
        yield folder / "run"
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Fill the disk of a folder with one file, ``filler``."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            return


def swap(path: Path, content: Any) -> None:
    """Replace a file atomically, so that no reader sees it half written."""
    new = path.with_name(f".new_{path.name}")
    new.write_bytes(content) if isinstance(content, bytes) else nib.save(content, new)
    new.replace(path)


def children(pid: int) -> list[int]:
    """List the living child processes of a process."""
    if not Path(f"/proc/{pid}/task/{pid}/children").exists():
        return []
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def kill_machine(torchrun: subprocess.Popen[bytes]) -> None:
    """Kill torchrun and its processes at once, as a power failure of the machine does."""
    processes = children(torchrun.pid)
    os.killpg(torchrun.pid, signal.SIGKILL)
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    torchrun.wait()


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def rank_one(torchrun: int) -> int:
    """Return the process of rank 1 among torchrun's children."""
    for child in children(torchrun):
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        if b"RANK=1" in environment:
            return child
    raise RuntimeError("rank 1 was not found")
