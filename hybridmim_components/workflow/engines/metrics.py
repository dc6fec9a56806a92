# SPDX-License-Identifier: Apache-2.0

"""Metrics of pre-training: each loss term, and its ratio to the value that guessing gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

from ignite.exceptions import NotComputableError
from ignite.metrics import Average, Loss, Metric
from torch import Tensor

from hybridmim_components.method.losses import (
    HybridMIMLoss,
    location_loss,
    masked_squared_error,
    number_loss,
    visible_mean_error,
)
from hybridmim_components.method.masking import expand_mask
from hybridmim_components.workflow.engines.pretrainer import perception_figures

__all__ = ["loss_metric", "loss_of", "lower_is_better", "masked_error_metric", "term_metrics", "validation_metrics"]

_ACCURACIES = ("number_accuracy", "number_within_one", "location_accuracy")
_TINY = 1e-12  # avoids 0 / 0: in a crop of a single value, guessing makes no error
_HEADS = ("number", "location", "consistency")


def loss_of(output: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Tensor:
    """Return the loss in an engine's output, which may be decollated (one copy per item).

    Example:
        >>> loss_of({"loss": 2.5}), loss_of([{"loss": 2.5}, {"loss": 2.5}])
        (2.5, 2.5)
    """
    return (output if isinstance(output, Mapping) else output[0])["loss"]


def loss_metric() -> dict[str, Average]:
    """Return the metric ``train_loss``, the mean training loss of an epoch.

    Example:
        >>> trainer = Engine(lambda engine, batch: {"loss": batch})
        >>> loss_metric()["train_loss"].attach(trainer, "train_loss")
        >>> trainer.run([1.0, 3.0]).metrics
        {'train_loss': 2.0}
    """
    return {"train_loss": _FiniteAverage(output_transform=loss_of)}


def term_metrics(loss: HybridMIMLoss, guesses: Mapping[str, float]) -> dict[str, Metric]:
    """Return the metrics of a pre-training epoch for each loss term with a weight above 0, by name.

    ``<term>`` is the mean of a term. ``<term>_share`` is this mean divided by the value of guessing; 1 is no better
    than guessing. The result also holds the accuracies of the two heads, and ``unchanged``, see
    :func:`.pretrainer.unchanged_share`.

    Args:
        loss: the loss, whose weights tell which terms are used.
        guesses: result of :func:`.losses.guessing`.

    Example:
        >>> metrics = term_metrics(HybridMIMLoss(1, 0.1, 0, 0, 0), guesses={"number": 2.0})
        >>> [name for name in metrics if name.startswith("number")]
        ['number', 'number_share', 'number_accuracy', 'number_within_one']
        >>> trainer = Engine(lambda engine, batch: [{"number": batch}])
        >>> metrics["number_share"].attach(trainer, "number_share")
        >>> trainer.run([1.0, 0.5]).metrics["number_share"]
        0.375
    """
    used = [name for name, weight in loss.weights.items() if weight > 0]
    metrics: dict[str, Metric] = {name: _mean(name) for name in used}
    if "partial_region" in used:
        metrics["partial_region_share"] = _mean("partial_region") / (_mean("partial_region_guess") + _TINY)
    # where guessing gives 0, there is nothing to learn
    known = [name for name in used if guesses.get(name, 0) > 0]
    metrics |= {f"{name}_share": _mean(name) / guesses[name] for name in known}
    accuracies = _ACCURACIES if any(name in used for name in _HEADS) else ()
    return metrics | {name: _mean(name) for name in (*accuracies, "unchanged")}


def masked_error_metric() -> dict[str, Metric]:
    """Return the metric ``val_masked_error``, the mean squared error of the masked voxels; lower is better.

    Example:
        >>> image, region = torch.rand(1, 1, 16, 16, 16), choose_region(MaskGrid(16, 8, 4), "full")
        >>> targets = {"image": image, "mask": sample_mask(region.grid, 1), "region": region}
        >>> metric = masked_error_metric()["val_masked_error"]
        >>> metric.update(({"reconstruction": image + 2}, targets))
        >>> round(metric.compute(), 3)
        4.0
    """
    return {"val_masked_error": _validated(_masked_error)}


def validation_metrics(loss: HybridMIMLoss, guesses: Mapping[str, float]) -> dict[str, Metric]:
    """Return the further metrics of a pre-training validation, on held-out volumes without dropout.

    Names and meaning are those of :func:`term_metrics`, with the prefix ``val_``. The contrast is left out, since it
    needs dropout. ``val_masked_error_share`` is the masked error divided by the error of guessing the mean of the
    visible voxels.

    Example:
        >>> image, region = torch.rand(1, 1, 16, 16, 16), choose_region(MaskGrid(16, 8, 4), "full")
        >>> mask = sample_mask(region.grid, 1)
        >>> guess = torch.full_like(image, image[~expand_mask(mask, region.grid)].mean())
        >>> output = {"pred": {"reconstruction": guess}, "label": {"image": image, "mask": mask, "region": region}}
        >>> evaluator = Engine(lambda engine, batch: output)
        >>> for name, metric in validation_metrics(HybridMIMLoss(1, 0, 0, 0, 0), guesses={}).items():
        ...     metric.attach(evaluator, name)
        >>> {name: round(value, 3) for name, value in evaluator.run([0]).metrics.items()}
        {'val_masked_error_share': 1.0}
    """
    guessed = _validated(_guessed_error) + _TINY
    metrics: dict[str, Metric] = {"val_masked_error_share": _validated(_masked_error) / guessed}
    if not any(loss.weights[name] > 0 for name in _HEADS):
        return metrics
    for name, mean in (("number", _validated(_number)), ("location", _validated(_location))):
        metrics |= {f"val_{name}": mean} | ({f"val_{name}_share": mean / guesses[name]} if guesses[name] > 0 else {})
    return metrics | {f"val_{name}": _validated(partial(_accuracy, name)) for name in _ACCURACIES}


def lower_is_better(current: float, best: float) -> bool:
    """Return whether a metric has improved: ``metric_cmp_fn`` of MONAI's engines for errors.

    Example:
        >>> lower_is_better(0.1, best=0.2), lower_is_better(0.3, best=0.2)
        (True, False)
    """
    return current < best


class _FiniteAverage(Average):
    """Mean of the finite values, NaN if there are none; :class:`.DropNonFiniteSteps` drops the steps of the others."""

    def update(self, output: Any) -> None:
        if math.isfinite(output):
            super().update(output)

    def compute(self) -> Any:
        try:
            return super().compute()
        except NotComputableError:  # on all ranks, which have to add up their counts first
            return math.nan


def _mean(name: str) -> Average:
    return _FiniteAverage(output_transform=lambda output: output[0][name])


def _validated(compute: Callable[[Mapping[str, Tensor], Mapping[str, Any]], Tensor]) -> Loss:
    """Return a metric that averages over the samples of a validation, whose last batch may be smaller."""
    return Loss(compute, output_transform=itemgetter("pred", "label"), batch_size=lambda targets: len(targets["image"]))


def _masked_error(outputs: Mapping[str, Tensor], targets: Mapping[str, Any]) -> Tensor:
    region = targets["region"]
    hidden = region.crop(expand_mask(targets["mask"], region.grid))
    return masked_squared_error(outputs["reconstruction"], region.crop(targets["image"]), hidden).mean()


def _number(outputs: Mapping[str, Tensor], targets: Mapping[str, Any]) -> Tensor:
    return number_loss(outputs["number"].float(), targets["mask"])


def _location(outputs: Mapping[str, Tensor], targets: Mapping[str, Any]) -> Tensor:
    return location_loss(outputs["location"].float(), targets["mask"])


def _accuracy(name: str, outputs: Mapping[str, Tensor], targets: Mapping[str, Any]) -> Tensor:
    return perception_figures(outputs, targets["mask"])[name]


def _guessed_error(outputs: Mapping[str, Tensor], targets: Mapping[str, Any]) -> Tensor:
    return visible_mean_error(targets["image"], targets["mask"], targets["region"])
