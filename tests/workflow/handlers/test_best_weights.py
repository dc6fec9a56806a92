# SPDX-License-Identifier: Apache-2.0

"""Best and last weights of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Average
from monai.engines import SupervisedEvaluator
from torch import nn

from hybridmim_components.weights import read_weights
from hybridmim_components.workflow.engines import lower_is_better
from hybridmim_components.workflow.handlers import BestWeights, IntervalAndFinalValidation, LastWeights

EPOCHS = 4


def run(folder: Path, errors: list[float], last: bool = True, interval: int = 1, seed: int = 3) -> tuple[Path, Path]:
    """Train a single weight that is the number of the epoch; ``errors`` is what each epoch's validation finds."""
    network = nn.Linear(1, 1, bias=False)
    paths = folder / "model.pt", folder / "last.pt"
    best = BestWeights(network, paths[0], {"seed": seed})
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=[{"image": torch.ones(1, 1), "label": torch.zeros(1, 1)}],
        network=network,
        inferer=lambda image, network: torch.full((1, 1), errors[int(network.weight.item()) - 1]),
        key_val_metric={"error": Average(output_transform=lambda output: output[0]["pred"].item())},
        metric_cmp_fn=lower_is_better,
        val_handlers=[best],
    )
    trainer = Engine(lambda engine, batch: network.weight.data.fill_(engine.state.epoch))
    if errors:
        IntervalAndFinalValidation(interval, evaluator).attach(trainer)
    LastWeights(best, paths[1] if last else None).attach(trainer)
    trainer.run([0], max_epochs=EPOCHS)
    return paths


def weight_of(path: Path) -> float:
    return float(read_weights(path)[0]["weight"])


def test_the_last_weights_lie_beside_the_best(tmp_path: Path) -> None:
    best, last = run(tmp_path, [0.5, 0.2, 0.3, 0.4])
    assert (weight_of(best), weight_of(last)) == (2, EPOCHS)
    recipes = [read_weights(path)[1] for path in (best, last)]
    assert recipes[0]["best"] == {"epoch": 2, "metric": "error", "value": pytest.approx(0.2)}
    assert recipes[1]["last"] == {"epoch": EPOCHS} and "best" not in recipes[1] and "last" not in recipes[0]
    assert recipes[0]["seed"] == recipes[1]["seed"] == 3


def test_weights_of_an_earlier_run_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, [0.1, 0.2, 0.3, 0.4])
    assert not caplog.records
    run(tmp_path, [0.1, 0.2, 0.3, 0.4])  # the same run once more
    assert not caplog.records
    with pytest.raises(IndexError):  # another run, which ends after its first validation, before any checkpoint
        run(tmp_path, [0.4], seed=4)
    run(tmp_path, [0.4, 0.3, 0.1, 0.2], seed=4)
    best, kept = tmp_path / "model.pt", tmp_path / "earlier_model.pt"
    assert (weight_of(best), weight_of(kept)) == (3, 1)
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        f"{best} is of an earlier run and is replaced: kept it as {kept}"
    ]


def test_a_finished_run_that_is_repeated_loses_nothing(tmp_path: Path) -> None:
    run(tmp_path, [0.4, 0.3, 0.1, 0.2])
    with pytest.raises(IndexError):
        run(tmp_path, [0.4])  # the same settings, and an end after the first epoch
    assert weight_of(tmp_path / "model.pt") == 1 and weight_of(tmp_path / "earlier_model.pt") == 3
    run(tmp_path, [0.4, 0.1, 0.3, 0.2])
    run(tmp_path, [0.4, 0.3, 0.2, 0.1], seed=4)
    kept = {path.stem.removeprefix("earlier_"): weight_of(path) for path in tmp_path.glob("earlier_*.pt")}
    assert kept == {"model": 3, "model_2": 2} and weight_of(tmp_path / "model.pt") == 4, "none is overwritten"


def test_a_metric_that_is_not_finite_is_never_the_best(tmp_path: Path) -> None:
    best, _ = run(tmp_path, [float("nan"), 0.5, float("nan"), 0.1])
    assert weight_of(best) == 4 and read_weights(best)[1]["best"]["value"] == pytest.approx(0.1)


def test_without_a_path_the_last_weights_are_not_kept(tmp_path: Path) -> None:
    best, last = run(tmp_path, [0.1, 0.2, 0.3, 0.4], last=False)
    assert weight_of(best) == 1 and [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_without_a_validation_the_last_weights_take_the_place_of_the_best(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    best, last = run(tmp_path, [])
    assert weight_of(best) == weight_of(last) == EPOCHS
    assert "Nothing was validated: saved the last weights" in caplog.text
    assert read_weights(best)[1]["last"] == {"epoch": EPOCHS}


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    best = BestWeights(nn.Linear(1, 1), tmp_path / "model.pt", {})
    trainer = Engine(lambda engine, batch: None)
    LastWeights(best, tmp_path / "last.pt").attach(trainer)
    assert trainer.has_event_handler(best, Events.COMPLETED) is False
    trainer.run([0], max_epochs=1)
    assert not list(tmp_path.iterdir())
