# SPDX-License-Identifier: Apache-2.0

"""Checkpoints of a run, from which the next run of the same config resumes."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch.nn.parallel import DistributedDataParallel

from hybridmim_components.system.files import PARTIAL, save_tensors
from hybridmim_components.system.stop_signals import StopSignals
from hybridmim_components.weights.check import require_fitting_state
from hybridmim_components.workflow.resume import (
    RESUME,
    checkpoints_in,
    find_unfinished,
    read_checkpoint,
    remove,
    set_aside,
)

__all__ = ["Checkpoints"]

logger = logging.getLogger(__name__)

_KEPT = 2  # the newest, and the one before it in case the newest is damaged
_FIGURES = ("training.csv", "validation.csv", "previews")
_NONE = "none"  # stands for no checkpoint


class Checkpoints:
    """Handler that saves and restores the state of a run; attach it to the trainer, after the validation handler.

    It writes a checkpoint atomically every few minutes, at the end of each validated epoch, when the run is told to
    stop, when the run fails between two steps, and at its end. Only rank 0 writes. If writing fails, the error is
    logged, earlier checkpoints stay, and the run goes on. Random generators need no saved state, see
    :class:`.SeededSteps`.

    Args:
        output_dir: folder of the run; checkpoints are ``checkpoints/step_<number>.pt`` in it.
        state: objects with a ``state_dict``, by name: network, optimiser, schedule and so on.
        recipe: plain data that identifies the run, see :mod:`.resume`.
        validator: evaluator of the run; a resumed run first calls it for a validation that is still due.
        val_interval: epochs between validations.
        minutes: minutes between checkpoints within an epoch; 0: a checkpoint after every step.
        resume: ``auto``: resume an unfinished run of the same recipe; ``never``: start afresh.
        managed: another program chose the volumes: start afresh and delete what the previous run left.

    Raises:
        ValueError: when a setting is out of range.

    Example:
        >>> network = nn.Linear(1, 1)
        >>> optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        >>> batches = [{"image": torch.ones(1, 1), "label": torch.ones(1, 1)}] * 4
        >>> evaluator = SupervisedEvaluator("cpu", batches, network)
        >>> handler = Checkpoints("run", {"network": network, "optimizer": optimizer}, {}, evaluator, val_interval=1)
        >>> SupervisedTrainer("cpu", 3, batches, network, optimizer, nn.MSELoss(), train_handlers=[handler]).run()
        >>> sorted(path.name for path in Path("run/checkpoints").iterdir())  # the newest, and the one before it
        ['step_00000008.pt', 'step_00000012.pt']
    """

    def __init__(
        self,
        output_dir: str | Path,
        state: Mapping[str, Any],
        recipe: Mapping[str, Any],
        validator: Evaluator,
        val_interval: int,
        minutes: float = 10,
        resume: str = "auto",
        managed: bool = False,
    ) -> None:
        if resume not in RESUME:
            raise ValueError(f"resume must be one of {RESUME}, got {resume!r}")
        if not minutes >= 0:
            raise ValueError(f"checkpoint_minutes must be 0 or more, got {minutes}")
        self.output_dir, self.folder = Path(output_dir), Path(output_dir) / "checkpoints"
        self.state = {name: _unwrapped(part) for name, part in state.items()}
        self.recipe, self.validator, self.val_interval = recipe, validator, val_interval
        self.minutes, self.resume, self.managed = minutes, resume, managed
        self.signals = StopSignals()
        self._between_steps = False
        self._saved_at = (0.0, -1)  # time and step
        self._epoch_ended = 0
        self._failed = False

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self._begin_step)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end_step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.COMPLETED, self._end)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)
        self.validator.add_event_handler(Events.ITERATION_COMPLETED, self._end_validation_step)

    def _start(self, engine: Engine) -> None:
        path = self._unfinished() if idist.get_rank() == 0 else None
        name = path.name if path else _NONE
        if idist.get_world_size() > 1:  # all ranks follow the decision of rank 0
            name = str(idist.broadcast(name, src=0))
        if name != _NONE:
            self._load(engine, self.folder / name)
        self._saved_at = (time.monotonic(), engine.state.iteration)
        self._between_steps = True
        self.signals.listen()

    def _unfinished(self) -> Path | None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for partial in self.folder.glob(f".*{PARTIAL}"):
            partial.unlink()
        path = find_unfinished(self.folder, self.recipe) if self.resume == "auto" and not self.managed else None
        if path is None and self.managed:
            shutil.rmtree(self.folder)
            for name in _FIGURES:
                remove(self.output_dir / name)
        elif path is None:
            set_aside(self.output_dir, _FIGURES)
        self._require_space()
        return path

    def _require_space(self) -> None:
        """Refuse to start if the disk lacks room for the checkpoints.

        Two are kept while a third is written; each holds the weights and the optimiser's two moments.
        """
        weights = sum(p.numel() * p.element_size() for p in self.state["network"].parameters())
        needed, free = (_KEPT + 1) * 3 * weights, shutil.disk_usage(self.output_dir).free
        if free < needed:
            raise OSError(
                f"output_dir must have room for {_KEPT + 1} checkpoints, {needed / 1e6:.0f} MB, "
                f"got {free / 1e6:.0f} MB free in {self.output_dir}"
            )

    def _load(self, engine: Engine, path: Path) -> None:
        content = read_checkpoint(path)
        require_fitting_state(self.state["network"], content["state"]["network"], path)
        for name, part in self.state.items():
            part.load_state_dict(content["state"][name])
        if content["scaler"] and engine.scaler:  # type: ignore[attr-defined]
            engine.scaler.load_state_dict(content["scaler"])  # type: ignore[attr-defined]
        for name, value in content["trainer"].items():
            setattr(engine.state, name, value)
        self._epoch_ended = engine.state.epoch
        logger.info("Going on after step %d (epoch %d) of %s", engine.state.iteration, engine.state.epoch + 1, path)
        if content["validation_due"] and self._is_validated(engine):
            self.validator.run(engine.state.epoch)

    def _begin_step(self, engine: Engine) -> None:
        self._between_steps = False

    def _end_step(self, engine: Engine) -> None:
        self._between_steps = _has_stepped(engine)
        last = engine.state.iteration % _epoch_length(engine) == 0
        # after the last step of an epoch, curves and validation come first; _end_epoch then saves
        if not self._between_steps or last:
            return
        if self.signals.agreed():
            self._stop(engine)
        elif self._is_time():
            self.save(engine)

    def _is_time(self) -> bool:
        return time.monotonic() - self._saved_at[0] >= 60 * self.minutes

    def _end_validation_step(self, validator: Engine) -> None:
        # several ranks cannot agree here, since their numbers of validation volumes may differ
        if idist.get_world_size() == 1 and self.signals.agreed():
            validator.terminate(skip_completed=True)

    def _end_epoch(self, engine: Engine) -> None:
        if idist.get_world_size() > 1 or not self.signals.agreed():
            self._epoch_ended = engine.state.epoch
        if self.signals.agreed():
            self._stop(engine)
        elif self._is_time() or self._is_validated(engine):
            self.save(engine)

    def _is_validated(self, engine: Engine) -> bool:
        return engine.state.epoch % self.val_interval == 0

    def _end(self, engine: Engine) -> None:
        self.signals.restore()
        if self.signals.agreed() and self.validator.should_terminate:
            self._stop(engine)
        else:
            self.save(engine, finished=True)

    def _fail(self, engine: Engine, error: BaseException) -> None:
        if self._failed:  # ignite reports an error within an epoch twice
            raise error
        self._failed = True
        self.signals.restore()
        if self._between_steps and engine.state.iteration > self._saved_at[1]:
            self.save(engine)
        newest = next(iter(checkpoints_in(self.folder)), None)
        if newest is not None:
            logger.error("The run can go on from %s: start it again", newest)
        raise error

    def _stop(self, engine: Engine) -> None:
        engine.state.stopped = True  # type: ignore[attr-defined]
        self.signals.restore()
        self.save(engine)
        logger.warning("Stopped after step %d; start again to go on", engine.state.iteration)
        engine.terminate(skip_completed=True)

    def save(self, engine: Engine, finished: bool = False) -> None:
        """Write a checkpoint; log an error if writing fails.

        Args:
            engine: the trainer.
            finished: whether the run is complete, so that no later run resumes it.
        """
        step = engine.state.iteration
        self._saved_at = (time.monotonic(), step)
        if idist.get_rank() != 0:
            return
        epoch_length = _epoch_length(engine)
        content = {
            "state": {name: part.state_dict() for name, part in self.state.items()},
            "scaler": engine.scaler.state_dict() if engine.scaler else {},  # type: ignore[attr-defined]
            "trainer": {
                "iteration": step,
                "epoch": step // epoch_length,
                "best_metric": float(engine.state.best_metric),  # type: ignore[attr-defined]
                "best_metric_epoch": engine.state.best_metric_epoch,  # type: ignore[attr-defined]
            },
            "validation_due": step % epoch_length == 0 and self._epoch_ended < step // epoch_length,
            "finished": finished,
            "recipe": {**self.recipe, "processes": idist.get_world_size()},
        }
        path = self.folder / f"step_{step:08d}.pt"
        try:
            save_tensors(path, content)
        except OSError as error:
            last = next(iter(checkpoints_in(self.folder)), "none")
            logger.error("No checkpoint at step %d: %s. The last one is %s", step, error, last)
            return
        logger.info("Saved %s", path)
        for old in checkpoints_in(self.folder)[_KEPT:]:
            old.unlink()


def _unwrapped(part: Any) -> Any:
    return part.module if isinstance(part, DistributedDataParallel) else part


def _epoch_length(engine: Engine) -> int:
    assert engine.state.epoch_length is not None
    return engine.state.epoch_length


def _has_stepped(engine: Engine) -> bool:
    """Return whether the last iteration stepped the optimiser, as ``monai.engines.SupervisedTrainer`` counts."""
    in_epoch = (engine.state.iteration - 1) % _epoch_length(engine) + 1
    return in_epoch % engine.accumulation_steps == 0 or in_epoch == engine.state.epoch_length  # type: ignore[attr-defined]
