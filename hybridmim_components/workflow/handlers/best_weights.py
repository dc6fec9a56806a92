# SPDX-License-Identifier: Apache-2.0

"""Handlers that save the weights of the best validation and of the last step, with their recipe."""

from __future__ import annotations

import filecmp
import json
import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from torch import nn

from hybridmim_components.weights import read_recipe, read_weights, save_weights

__all__ = ["BestWeights", "LastWeights"]

logger = logging.getLogger(__name__)


class BestWeights:
    """Handler that saves a stock network whenever a validation is the best so far; attach it to the evaluator.

    Weights that an earlier run left at the same path are kept beside it, as ``earlier_model.pt``. If there are such
    weights already, ``earlier_model_2.pt`` and so on follow.

    The evaluator's ``key_val_metric`` and ``metric_cmp_fn`` define which metric counts and whether lower is better.

    Args:
        network: the stock network, not a wrapper.
        path: target file.
        recipe: plain data to save with the weights, see :func:`.weights.save_weights`; epoch and metric are added.
        bare: write the state dict alone, and the recipe as JSON beside it.
        one_copy: keep the weights of the last earlier run alone, for a server that trains again and again.

    Example:
        >>> from ignite.metrics import Average
        >>> network = nn.Linear(1, 1, bias=False)  # for an image of ones, its output is its weight
        >>> dice = {"dice": Average(lambda output: output[0]["pred"].item())}
        >>> evaluator = SupervisedEvaluator("cpu", [{"image": torch.ones(1, 1)}], network, key_val_metric=dice)
        >>> BestWeights(network, "model.pt", {"spacing": [1, 1, 1]}).attach(evaluator)
        >>> for epoch, weight in ((1, 0.25), (2, 0.75), (3, 0.5)):
        ...     _ = nn.init.constant_(network.weight, weight)
        ...     evaluator.run(epoch)
        >>> read_weights("model.pt")[1]["best"]
        {'epoch': 2, 'metric': 'dice', 'value': 0.75}
    """

    def __init__(
        self,
        network: nn.Module,
        path: str | Path,
        recipe: Mapping[str, Any],
        bare: bool = False,
        one_copy: bool = False,
    ) -> None:
        self.network = network
        self.path = Path(path)
        self.recipe = recipe
        self.bare = bare
        self.one_copy = one_copy
        self.saved = False
        self.evaluator: Any = None

    def attach(self, engine: Engine) -> None:
        """Register with a ``monai.engines.Evaluator``."""
        self.evaluator = engine
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to recognise the best validation."""
        state = self.evaluator.state
        return {
            "saved": self.saved,
            "best_metric": float(state.best_metric),
            "best_metric_epoch": state.best_metric_epoch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.saved = state["saved"]
        self.evaluator.state.best_metric = state["best_metric"]
        self.evaluator.state.best_metric_epoch = state["best_metric_epoch"]

    def __call__(self, engine: Engine) -> None:
        """Save if the validation that just ended is the best so far."""
        state: Any = engine.state
        if state.best_metric_epoch != state.epoch:
            return
        if not math.isfinite(state.best_metric):
            state.best_metric_epoch = -1  # no later metric would be better than NaN
            return
        if idist.get_rank() != 0:
            return
        best = {"epoch": int(state.epoch), "metric": state.key_metric_name, "value": float(state.best_metric)}
        self.save({"best": best})
        logger.info("Saved %s (%s %.4f, epoch %d)", self.path, best["metric"], best["value"], best["epoch"])

    def save(self, remarks: Mapping[str, Any]) -> None:
        """Save the current weights, with further entries in the recipe."""
        recipe = {**self.recipe, **remarks}
        if not self.saved:
            self._keep_earlier(recipe)
        save_weights(self.path, self.network, recipe, self.bare)
        self.saved = True

    def _keep_earlier(self, recipe: Mapping[str, Any]) -> None:
        """Copy the weights that the first save of a run would overwrite, unless they have the same recipe.

        The latter are those of this run, if it was killed after it saved weights and before it saved a checkpoint.
        """
        if not self.path.is_file() or _is_of(recipe, self.path):
            return
        copy, number = self.path.with_name(f"earlier_{self.path.name}"), 1
        while copy.exists() and not (self.one_copy or filecmp.cmp(self.path, copy, shallow=False)):
            number += 1
            copy = self.path.with_name(f"earlier_{self.path.stem}_{number}{self.path.suffix}")
        if (recipe_file := self.path.with_suffix(".json")).is_file():
            shutil.copy2(recipe_file, copy.with_suffix(".json"))
        shutil.copy2(self.path, copy)
        logger.warning("%s is of an earlier run and is replaced: kept it as %s", self.path, copy)


def _is_of(recipe: Mapping[str, Any], path: Path) -> bool:
    """Return whether weights have this recipe."""
    try:
        found = read_recipe(path) or read_weights(path)[1]
    except (OSError, ValueError):
        return False
    plain = json.loads(json.dumps(dict(recipe)))
    return {key: found.get(key) for key in plain} == plain


class LastWeights:
    """Handler that saves the last weights of a run, and uses them as the best weights if nothing was validated.

    Attach it to the trainer, after the validation handler. With few validation volumes, chance decides which weights
    are the best; the last weights have always gone through the whole schedule.

    Args:
        best_weights: the handler that saves the best.
        path: file of the last weights; None: save them only in place of missing best weights.

    Example:
        >>> best = BestWeights(nn.Linear(1, 1), "model.pt", {"spacing": [1, 1, 1]})
        >>> trainer = Engine(lambda engine, batch: None)
        >>> LastWeights(best, "last.pt").attach(trainer)
        >>> _ = trainer.run([0], max_epochs=3)
        >>> read_weights("last.pt")[1]["last"], Path("model.pt").is_file()
        ({'epoch': 3}, True)
    """

    def __init__(self, best_weights: BestWeights, path: str | Path | None = None) -> None:
        self.best_weights = best_weights
        self.path = path

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Save the last weights."""
        if idist.get_rank() != 0:
            return
        best, remarks = self.best_weights, {"last": {"epoch": int(engine.state.epoch)}}
        if self.path is not None:
            save_weights(self.path, best.network, {**best.recipe, **remarks}, best.bare)
        if not best.saved:
            best.save(remarks)
            logger.warning("Nothing was validated: saved the last weights as %s", best.path)
