# SPDX-License-Identifier: Apache-2.0

"""Tables and plot of few_labels.py: means, and paired differences with bootstrap intervals."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rows import read_rows
from scipy.stats import norm, t

__all__ = ["Difference", "difference", "read_scores", "report", "report_probe", "report_tuning"]

RESAMPLES = 10_000
BUDGET = ("learning_rate", "pretraining_steps")
REFERENCES = ("scratch", "masked_modelling")
FIRST = (*REFERENCES, "hybridmim")
HEADER = (
    "labelled patients",
    "steps",
    "arm",
    "seeds",
    "Dice",
    "HD95, mm",
    "Dice less scratch",
    "less plain masked modelling",
)
PROBES = ("labelled patients", "frozen features", "seeds", "Dice", "less new weights", "less plain masked modelling")
TRIALS = ("labelled patients", "steps", "arm", "learning rate", "seeds", "Dice of each", "mean", "less scratch")
#: Dice in per cent of each patient, by arm, number of labelled patients and steps, then by seed.
Scores = dict[tuple[str, int, int], dict[int, np.ndarray]]


class Difference(NamedTuple):
    """A mean paired difference, in Dice points, and its 95 % interval."""

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:+.1f} ({self.low:+.1f} to {self.high:+.1f})"


def read_scores(path: Path, column: str = "dice_by_patient", factor: float = 100.0) -> Scores:
    """Read the cells of a CSV file of few_labels.py.

    Raises:
        ValueError: when an arm has cells with different pre-training steps or learning rates for the same number of
            labels and of steps.
    """
    found: Scores = {}
    budgets: dict[tuple[str, int, int], list[str]] = {}
    for row in read_rows(path):
        key, budget = (row["arm"], int(row["labels"]), int(row["steps"])), [row[name] for name in BUDGET]
        if (other := budgets.setdefault(key, budget)) != budget:
            what = f"{key[0]} with {key[1] or 'all'} labels and {key[2]} steps"
            raise ValueError(f"{what} must have one {', '.join(BUDGET)} in {path}, got {other} and {budget}")
        values = np.array([float(value) for value in row[column].split(";")])
        found.setdefault(key, {})[int(row["seed"])] = values * factor
    return found


def difference(ours: Mapping[int, np.ndarray], theirs: Mapping[int, np.ndarray], seed: int = 0) -> Difference | None:
    """Compute the mean difference over the seeds that both arms have, with a 95 % bootstrap interval.

    Seeds and patients are each drawn with replacement. All seeds score the same patients, so one draw of patients
    holds for all of them. Resampling of n seeds understates how much they vary if n is small, so the interval is
    widened by sqrt(n / (n - 1)), and by the ratio of Student's to the normal distribution's quantile (1.42 for 5 seeds,
    1.15 for 10). If there are fewer than 2 common seeds, there is no interval, and the result is None.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if len(seeds) < 2:
        return None
    paired = np.stack([ours[s] - theirs[s] for s in seeds])
    random = np.random.default_rng(seed)
    drawn = np.empty(RESAMPLES)
    for k in range(RESAMPLES):
        rows = random.integers(0, paired.shape[0], paired.shape[0])
        columns = random.integers(0, paired.shape[1], paired.shape[1])
        drawn[k] = paired[rows].mean(0)[columns].mean()
    mean = float(paired.mean())
    widened = np.sqrt(len(seeds) / (len(seeds) - 1)) * t.ppf(0.975, len(seeds) - 1) / norm.ppf(0.975)
    low, high = mean + (np.percentile(drawn, (2.5, 97.5)) - mean) * widened
    return Difference(mean, float(low), float(high), len(seeds))


def report(folder: Path, titles: Mapping[str, str]) -> None:
    """Write ``table.md`` and ``plot.png`` beside ``cells.csv``.

    Raises:
        FileNotFoundError: when there are no cells.
    """
    scores = read_scores(folder / "cells.csv")
    if not scores:
        raise FileNotFoundError(f"no cells in {folder / 'cells.csv'}: few_labels.py run computes them")
    distances = read_scores(folder / "cells.csv", "hd95_mm_by_patient", 1.0)
    counts = sorted({labels for _, labels, _ in scores}, key=lambda labels: labels or 10**9)
    budgets = sorted({steps for _, _, steps in scores})
    arms = [arm for arm in titles if any(arm == other for other, _, _ in scores)]
    arms.sort(key=lambda arm: _place(arm)[0])
    lines = [_line(HEADER), _line(["---"] * len(HEADER))]
    for labels, steps, arm in itertools.product(counts, budgets, arms):
        own = scores.get((arm, labels, steps))
        if own:
            distance = np.mean([values.mean() for values in distances[arm, labels, steps].values()])
            dice = np.mean([values.mean() for values in own.values()])
            gains = _gains(scores, (arm, labels, steps))
            lines.append(
                _line((labels or "all", steps, titles[arm], len(own), f"{dice:.1f}", f"{distance:.2f}", *gains))
            )
    (folder / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _draw(scores, counts, {arm: titles[arm] for arm in arms}, folder / "plot.png")
    print("\n".join(lines))


def report_probe(folder: Path, titles: Mapping[str, str]) -> None:
    """Write ``probe.md`` beside ``probe.csv``: the Dice of a linear classifier on frozen features."""
    scores = read_scores(folder / "probe.csv")
    lines = [_line(PROBES), _line(["---"] * len(PROBES))]
    for labels, arm in sorted(
        {(labels, arm) for arm, labels, _ in scores}, key=lambda key: (key[0] or 10**9, _place(key[1]))
    ):
        own = scores[arm, labels, 0]
        dice = np.mean([values.mean() for values in own.values()])
        title = "new weights" if arm == "scratch" else titles.get(arm, arm)
        lines.append(_line((labels or "all", title, len(own), f"{dice:.1f}", *_gains(scores, (arm, labels, 0)))))
    (folder / "probe.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def _place(arm: str) -> tuple[int, str]:
    return (FIRST.index(arm) if arm in FIRST else len(FIRST)), arm


def _gains(scores: Scores, key: tuple[str, int, int]) -> list[object]:
    """Return the differences of a cell to those of the arms of reference, as the tables show them."""
    arm, labels, steps = key
    return [
        "" if arm == other else difference(scores[key], scores.get((other, labels, steps), {})) or "-"
        for other in REFERENCES
    ]


def report_tuning(folder: Path, titles: Mapping[str, str]) -> None:
    """Write ``tuning.md`` beside ``tuning.csv``, with every trial, also those without a gain.

    The difference is taken to scratch with the same labelled patients, steps, learning rate and seeds.
    """
    found: dict[tuple[int, int, str, float], dict[int, float]] = {}
    for row in read_rows(folder / "tuning.csv"):
        key = (int(row["labels"]), int(row["steps"]), row["arm"], float(row["learning_rate"]))
        found.setdefault(key, {})[int(row["seed"])] = 100 * float(row["dice"])
    lines = [_line(TRIALS), _line(["---"] * len(TRIALS))]
    for (labels, steps, arm, rate), own in sorted(found.items()):
        scratch = found.get((labels, steps, "scratch", rate), {})
        common = [own[seed] - scratch[seed] for seed in own if seed in scratch]
        gain = f"{np.mean(common):+.1f}" if common and arm != "scratch" else ""
        each = ", ".join(f"{own[seed]:.1f}" for seed in sorted(own))
        mean = f"{np.mean(list(own.values())):.1f}"
        lines.append(_line((labels or "all", steps, titles.get(arm, arm), rate, len(own), each, mean, gain)))
    (folder / "tuning.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _draw(scores: Scores, counts: list[int], titles: Mapping[str, str], path: Path) -> None:
    """Plot Dice against labelled patients, with a panel for each number of steps and bars of one standard error."""
    budgets = sorted({steps for _, _, steps in scores})
    figure = Figure(figsize=(5 * len(budgets) + 1, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(budgets), sharey=True, squeeze=False)[0]
    for axis, steps in zip(panels, budgets, strict=True):
        for number, (arm, title) in enumerate(titles.items()):
            own = [(k, scores[arm, labels, steps]) for k, labels in enumerate(counts) if (arm, labels, steps) in scores]
            x = [k + 0.03 * number for k, _ in own]  # so that bars lie side by side
            means = [np.array([values.mean() for values in seeds.values()]) for _, seeds in own]
            middle = np.array([m.mean() for m in means])
            error = np.array([m.std(ddof=1) / np.sqrt(len(m)) if len(m) > 1 else 0.0 for m in means])
            axis.errorbar(x, middle, error, fmt="o-", capsize=3, label=title)
        axis.set_xticks(range(len(counts)), [str(labels or "all") for labels in counts])
        axis.set(xlabel="labelled patients", xlim=(-0.3, len(counts) - 0.7))
        axis.set_title(f"{steps} steps of fine-tuning", fontsize=10, loc="left")
        axis.grid(color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("Dice of the test patients, %")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=90)
