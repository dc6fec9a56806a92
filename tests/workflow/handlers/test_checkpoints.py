# SPDX-License-Identifier: Apache-2.0

"""A run that was interrupted, wherever, ends with the weights of one that was not."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.data import Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, MeanDice
from monai.networks.nets import BasicUNet
from monai.transforms import Compose, RandGaussianNoised, RandScaleIntensityd

from hybridmim_components.data import SeededLoader
from hybridmim_components.system.stop_signals import EXIT_CODE
from hybridmim_components.workflow.engines import loss_metric
from hybridmim_components.workflow.engines import run as run_and_exit
from hybridmim_components.workflow.handlers import (
    BestWeights,
    Checkpoints,
    DropNonFiniteSteps,
    History,
    IntervalAndFinalValidation,
    SeededSteps,
)

EPOCHS, STEPS = 4, 3  # of an epoch
Attach = Callable[[SupervisedTrainer, Checkpoints], None]


class Killed(BaseException):
    """Stands for a kill: nothing but what is on the disk goes on."""


def crops(count: int, seed: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "image": torch.rand(1, 16, 16, 32, generator=generator),
            "label": (torch.rand(2, 16, 16, 32, generator=generator) > 0.5).float(),
            "case_id": f"case {i}",
        }
        for i in range(count)
    ]


def run(folder: Path, attach: Attach | None = None, **settings: Any) -> SupervisedTrainer:
    """Train as train.json does, on a tiny network with dropout and random transforms."""
    checkpoint_settings = {k: settings.pop(k) for k in ("minutes", "resume", "managed") if k in settings}
    recipe = {"learning_rate": 0.01, "training_volumes": ["a", "b"], "epochs": EPOCHS} | settings.pop("recipe", {})
    torch.manual_seed(7)
    network = BasicUNet(features=settings.pop("features", (2, 2, 2, 2, 4, 2)), dropout=0.2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe["learning_rate"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * STEPS)
    noise = Compose([RandScaleIntensityd("image", 0.2, prob=0.7), RandGaussianNoised("image", prob=0.7)])
    num_workers = settings.pop("num_workers", 0)
    loader = SeededLoader(Dataset(crops(2 * STEPS, 0), noise), 2, seed=1, steps=STEPS, num_workers=num_workers)
    metric = {"dice": MeanDice(output_transform=lambda out: ([o["pred"] for o in out], [o["label"] for o in out]))}
    best = BestWeights(network, folder / "model.pt", {}, bare=True)
    validator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=torch.utils.data.DataLoader(crops(2, 1), batch_size=1),
        network=network,
        key_val_metric=metric,
        val_handlers=[History(folder / "validation.csv"), best],
    )
    state = {"network": network, "optimizer": optimizer, "lr_scheduler": schedule, "best_weights": best}
    checkpoints = Checkpoints(folder, state, recipe, validator, 2, **checkpoint_settings)
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=EPOCHS,
        train_data_loader=loader,
        network=network,
        optimizer=optimizer,
        loss_function=torch.nn.MSELoss(),
        key_train_metric=loss_metric(),
        train_handlers=[
            SeededSteps(loader, 1),
            DropNonFiniteSteps(optimizer),
            LrScheduleHandler(schedule, print_lr=False, epoch_level=False),
            History(folder / "training.csv", optimizer),
            IntervalAndFinalValidation(2, validator),
            checkpoints,
        ],
        **settings,
    )
    if attach:
        attach(trainer, checkpoints)
    run_and_exit(trainer)
    return trainer


def kill_at(step: int, event: Any = Events.ITERATION_COMPLETED) -> Attach:
    def attach(trainer: SupervisedTrainer, checkpoints: Checkpoints) -> None:
        def kill(engine: Any) -> None:
            if engine.state.iteration == step:
                # what a kill leaves out: nobody saves on the way
                checkpoints._failed = True
                checkpoints.signals.restore()
                raise Killed

        trainer.add_event_handler(event, kill)

    return attach


def stop(folder: Path, step: int, **settings: Any) -> None:
    with pytest.raises(SystemExit):
        run(folder, signal_at(step), **settings)


def signal_at(step: int, number: int = signal.SIGTERM) -> Attach:
    def attach(trainer: SupervisedTrainer, checkpoints: Checkpoints) -> None:
        def send(engine: Any) -> None:
            if engine.state.iteration == step:
                os.kill(os.getpid(), number)

        trainer.add_event_handler(Events.ITERATION_STARTED, send)

    return attach


def result(folder: Path) -> dict[str, Any]:
    """Everything that the last checkpoint of a finished run holds, and the best weights."""
    (newest, *_) = sorted((folder / "checkpoints").iterdir(), reverse=True)
    content = torch.load(newest, weights_only=True)
    assert content["finished"] and newest.name == f"step_{EPOCHS * STEPS:08d}.pt"
    return content | {"best": torch.load(folder / "model.pt", weights_only=True)}


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            if key not in ("trainer", "best_metric"):  # a mean over an interrupted epoch
                assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    assert (folder / "validation.csv").read_text().count("\n") == 3
    return result(folder) | {"curves": (folder / "validation.csv").read_text()}


def test_a_run_of_other_features_does_not_go_on_and_says_why(tmp_path: Path) -> None:
    stop(tmp_path, 4)
    with pytest.raises(ValueError, match=r"weights must fit network_def \(BasicUNet\), those of .*step_.*.pt do not: "):
        run(tmp_path, features=(2, 2, 2, 2, 8, 2))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("step", [1, 4, 6, 11])
def test_defect_9_a_killed_run_goes_on_to_the_same_weights(
    tmp_path: Path, whole: dict[str, Any], step: int, num_workers: int
) -> None:
    with pytest.raises(Killed):
        run(tmp_path, kill_at(step), minutes=0, num_workers=num_workers)
    run(tmp_path, num_workers=num_workers)
    assert_same(result(tmp_path), {k: v for k, v in whole.items() if k != "curves"})
    assert (tmp_path / "validation.csv").read_text() == whole["curves"]


@pytest.mark.parametrize("step", [2, 3, 5, 6, 9, 12])
def test_a_signal_saves_and_the_next_run_goes_on(
    tmp_path: Path, whole: dict[str, Any], step: int, caplog: pytest.LogCaptureFixture
) -> None:
    """At the last step of an epoch, too, whose validation is then made up for."""
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, signal_at(step))
    assert stopped.value.code == EXIT_CODE == 75
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert "SIGTERM: stopping after this step" in caplog.text
    assert (tmp_path / "checkpoints" / f"step_{step:08d}.pt").is_file()
    run(tmp_path)
    assert_same(result(tmp_path), {k: v for k, v in whole.items() if k != "curves"})
    assert (tmp_path / "validation.csv").read_text() == whole["curves"]


def test_gradients_that_are_being_accumulated_are_never_cut(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    run(tmp_path / "whole", accumulation_steps=2)
    stop(tmp_path / "cut", 4, accumulation_steps=2)
    assert (tmp_path / "cut" / "checkpoints" / "step_00000005.pt").is_file()
    run(tmp_path / "cut", accumulation_steps=2)
    assert_same(result(tmp_path / "cut"), result(tmp_path / "whole"))


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_is_used(
    tmp_path: Path, whole: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Killed):
        run(tmp_path, kill_at(8), minutes=0)
    before, newest = sorted((tmp_path / "checkpoints").iterdir())
    assert (before.name, newest.name) == ("step_00000007.pt", "step_00000008.pt")
    newest.write_bytes(newest.read_bytes()[:-300])
    (tmp_path / "checkpoints" / ".step_00000009.pt.x.partial").touch()
    with caplog.at_level(logging.INFO):
        run(tmp_path)
    assert f"cannot read the checkpoint {newest}" in caplog.text and "Going on after step 7" in caplog.text
    assert not list((tmp_path / "checkpoints").glob(".*"))
    assert_same(result(tmp_path), {k: v for k, v in whole.items() if k != "curves"})


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    stop(tmp_path, 4)
    with pytest.raises(ValueError, match=r"other settings \(learning_rate was 0.01, is 0.02\): .* --resume never"):
        run(tmp_path, recipe={"learning_rate": 0.02})
    run(tmp_path, recipe={"learning_rate": 0.02}, resume="never")
    assert (tmp_path / "unfinished_1" / "checkpoints" / "step_00000004.pt").is_file()
    assert len((tmp_path / "training.csv").read_text().splitlines()) == 1 + EPOCHS


def test_other_volumes_begin_a_new_run_and_lose_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stop(tmp_path, 4)
    run(tmp_path, recipe={"training_volumes": ["c"]})
    assert "saw other volumes" in caplog.text and f"moved to {tmp_path / 'unfinished_1'}" in caplog.text
    assert (tmp_path / "unfinished_1" / "training.csv").is_file()


def test_a_finished_run_is_not_gone_on_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for learning_rate in (0.01, 0.02):
        run(tmp_path, recipe={"learning_rate": learning_rate})
        assert len((tmp_path / "training.csv").read_text().splitlines()) == 1 + EPOCHS
    assert "Going on" not in caplog.text and not (tmp_path / "unfinished_1").exists()
    kept = tmp_path / "finished_1"
    assert {path.name for path in kept.iterdir()} == {"training.csv", "validation.csv"}
    assert len((kept / "training.csv").read_text().splitlines()) == 1 + EPOCHS


def test_curves_of_a_run_that_was_killed_before_its_first_checkpoint_are_not_called_finished(tmp_path: Path) -> None:
    (tmp_path / "training.csv").write_text("epoch,train_loss\n1,0.5\n")
    run(tmp_path)
    assert (tmp_path / "unfinished_1" / "training.csv").read_text().endswith("1,0.5\n")
    assert not (tmp_path / "finished_1").exists()


def test_pictures_of_an_earlier_run_do_not_stay_beside_the_new_curves(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "previews").mkdir()
    (tmp_path / "previews" / "epoch_009.png").touch()
    run(tmp_path)
    assert (tmp_path / "finished_1" / "previews" / "epoch_009.png").is_file() and not (tmp_path / "previews").exists()
    (tmp_path / "previews").mkdir()
    run(tmp_path, managed=True)
    assert not (tmp_path / "previews").exists() and not (tmp_path / "finished_2").exists()


def test_lists_of_another_program_are_never_resumed(tmp_path: Path) -> None:
    """MONAI Label trains the same config again and again, with other lists."""
    stop(tmp_path, 4, managed=True)
    run(tmp_path, managed=True, recipe={"learning_rate": 0.02})
    assert not (tmp_path / "unfinished_1").exists() and result(tmp_path)["finished"]


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(
    tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The checkpoint before stays as it was; the next one is written when there is room again."""

    def fill(trainer: SupervisedTrainer, checkpoints: Checkpoints) -> None:
        def before(engine: Any) -> None:
            module = "hybridmim_components.workflow.handlers.checkpoints.save_tensors"
            if engine.state.iteration == 4:
                monkeypatch.setattr(module, full_disk)
            elif engine.state.iteration == 6:
                monkeypatch.undo()

        trainer.add_event_handler(Events.ITERATION_STARTED, before)

    run(tmp_path, fill, minutes=0)
    assert "No checkpoint at step 4: [Errno 28] No space left on device" in caplog.text
    assert f"The last one is {tmp_path / 'checkpoints' / 'step_00000003.pt'}" in caplog.text
    assert_same(result(tmp_path), {k: v for k, v in whole.items() if k != "curves"})


def test_too_little_room_is_told_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 50, 50))
    with pytest.raises(OSError, match="output_dir must have room for 3 checkpoints"):
        run(tmp_path)


def test_an_error_between_two_steps_saves_first(tmp_path: Path, whole: dict[str, Any]) -> None:
    def fail(trainer: SupervisedTrainer, checkpoints: Checkpoints) -> None:
        def raise_(engine: Any) -> None:
            if engine.state.iteration == 5:
                raise ChildProcessError("a worker died")

        trainer.add_event_handler(Events.GET_BATCH_STARTED, raise_)

    with pytest.raises(ChildProcessError, match="a worker died"):
        run(tmp_path, fail)
    assert (tmp_path / "checkpoints" / "step_00000005.pt").is_file()
    run(tmp_path)
    assert_same(result(tmp_path), {k: v for k, v in whole.items() if k != "curves"})


def test_an_error_amid_a_step_saves_nothing(tmp_path: Path) -> None:
    def fail(trainer: SupervisedTrainer, checkpoints: Checkpoints) -> None:
        trainer.add_event_handler(Events.ITERATION_STARTED(once=5), lambda engine: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, fail)
    assert not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.parametrize(("setting", "value"), [("resume", "always"), ("minutes", -1), ("minutes", float("nan"))])
def test_wrong_settings_are_refused(tmp_path: Path, setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be .*got"):
        run(tmp_path, **{setting: value})
