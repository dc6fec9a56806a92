# SPDX-License-Identifier: Apache-2.0

"""Search for an unfinished run in an output folder that a new run can resume."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch

from hybridmim_components.weights.check import FINGERPRINTS

__all__ = ["RESUME", "checkpoints_in", "find_unfinished", "is_set_aside", "read_checkpoint", "remove", "set_aside"]

logger = logging.getLogger(__name__)

RESUME = ("auto", "never")
PATTERN = "step_*.pt"
_IRRELEVANT = ("components_version", "monai_version", "torch_version")


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, the newest first.

    Example:
        >>> for step in (8, 16):
        ...     Path(f"step_{step:08d}.pt").touch()
        >>> [path.name for path in checkpoints_in(Path())]
        ['step_00000016.pt', 'step_00000008.pt']
    """
    return sorted(folder.glob(PATTERN), reverse=True)


def find_unfinished(folder: Path, recipe: Mapping[str, Any]) -> Path | None:
    """Find the newest readable checkpoint of an unfinished run with the same data.

    Args:
        folder: folder of the checkpoints.
        recipe: settings and volumes of the new run.

    Returns:
        The checkpoint, or None if there is none, the run has finished, or the run used other volumes.

    Raises:
        ValueError: when the unfinished run has other settings; names them.

    Example:
        >>> torch.save({"finished": False, "recipe": {"epochs": 5, "processes": 1}, "trainer": {}}, "step_00000008.pt")
        >>> find_unfinished(Path(), {"epochs": 5}).name
        'step_00000008.pt'
        >>> find_unfinished(Path(), {"epochs": 9})
        Traceback (most recent call last):
        ValueError: the unfinished run in . has other settings (epochs was 5, is 9): give it the same ones to go on ...
    """
    for path in checkpoints_in(folder):
        try:
            content = read_checkpoint(path)
        except OSError as error:
            logger.error("%s; going back to the checkpoint before it", error)
            continue
        if content["finished"]:
            return None
        return path if _is_same_run(content["recipe"], recipe, folder) else None
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint on the CPU, without executing anything in it.

    Raises:
        OSError: when it is damaged or not a checkpoint of a run.

    Example:
        >>> torch.save({"finished": True, "recipe": {"epochs": 5}, "trainer": {}}, "step_00000008.pt")
        >>> read_checkpoint(Path("step_00000008.pt"))["recipe"]
        {'epochs': 5}
        >>> _ = Path("step_00000016.pt").write_text("cut short")
        >>> read_checkpoint(Path("step_00000016.pt"))
        Traceback (most recent call last):
        OSError: cannot read the checkpoint step_00000016.pt: ...
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not {"finished", "recipe", "trainer"} <= content.keys():
            raise ValueError("it is no checkpoint of a run")
    except Exception as error:  # from zip, pickle or torch, depending on the damage
        reason = (str(error).splitlines() or [""])[0]
        raise OSError(f"cannot read the checkpoint {path}: {type(error).__name__}: {reason}") from error
    return content


def set_aside(output_dir: Path, figures: tuple[str, ...]) -> None:
    """Make room for a new run: move an unfinished run, or the figures of a finished one, into a folder of their own.

    The folder is ``unfinished_1`` or ``finished_1``, or has the next free number. The checkpoints of a finished run are
    deleted; its weights are in ``ckpt_dir``.

    Args:
        output_dir: folder of the run, with its ``checkpoints``.
        figures: further files and folders of a run there.

    Example:
        >>> Path("run/checkpoints").mkdir(parents=True)
        >>> torch.save({"finished": False, "recipe": {}, "trainer": {}}, "run/checkpoints/step_00000008.pt")
        >>> set_aside(Path("run"), ("training.csv",))
        >>> [str(path) for path in Path("run").rglob("*.pt")]
        ['run/unfinished_1/checkpoints/step_00000008.pt']
    """
    checkpoints = output_dir / "checkpoints"
    newest = next(iter(checkpoints_in(checkpoints)), None)
    unfinished = newest is None or not _finished(newest)
    # checkpoints last: they tell whether the run has finished, also if this is killed and done again
    names = (*figures, "checkpoints") if newest and unfinished else figures
    present = [path for name in names if (path := output_dir / name).exists()]
    if present:
        _move(present, output_dir, "unfinished" if unfinished else "finished")
    if not unfinished:
        for path in reversed(checkpoints_in(checkpoints)):  # the newest, which tells that the run finished, goes last
            path.unlink()


def _move(present: list[Path], output_dir: Path, kind: str) -> None:
    number = 1
    while (target := output_dir / f"{kind}_{number}").exists():
        number += 1
    target.mkdir()
    for path in present:
        path.rename(target / path.name)
    if kind == "unfinished":
        logger.warning("Starting afresh: the unfinished run in %s was moved to %s", output_dir, target)
    else:
        logger.info("The figures of the finished run in %s were moved to %s", output_dir, target)


def is_set_aside(folder: Path) -> bool:
    """Return whether :func:`set_aside` made a folder.

    Example:
        >>> is_set_aside(Path("run/unfinished_1")), is_set_aside(Path("run/train"))
        (True, False)
    """
    return re.fullmatch(r"(un)?finished_\d+", folder.name) is not None


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there.

    Example:
        >>> Path("previews").mkdir()
        >>> remove(Path("previews"))
        >>> Path("previews").exists()
        False
    """
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _finished(path: Path) -> bool:
    try:
        return bool(read_checkpoint(path)["finished"])
    except OSError:
        return False


def _is_same_run(there: Mapping[str, Any], here: Mapping[str, Any], folder: Path) -> bool:
    here = {**here, "processes": idist.get_world_size()}
    if any(there.get(key) != here.get(key) for key in FINGERPRINTS):
        logger.warning("The unfinished run in %s saw other volumes, so this run does not resume it", folder)
        return False
    names = sorted((there.keys() | here.keys()) - {*FINGERPRINTS, *_IRRELEVANT})
    changed = [f"{n} was {there.get(n)}, is {here.get(n)}" for n in names if there.get(n) != here.get(n)]
    if changed:
        raise ValueError(
            f"the unfinished run in {folder} has other settings ({'; '.join(changed)}): give it the same ones to go on "
            "with it, or start afresh with --resume never or another output_dir"
        )
    return True
