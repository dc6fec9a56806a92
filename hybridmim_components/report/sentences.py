# SPDX-License-Identifier: Apache-2.0

"""Sentences that head the page: did pre-training learn, how well does the network segment, does a run beat another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridmim_components.report.run_folders import RunFolders
from hybridmim_components.report.sections import recipes_of
from hybridmim_components.report.verdicts import CaseScores, Difference, paired_difference
from hybridmim_components.system.files import file_state, read_json_object
from hybridmim_components.workflow.learning import learning_sentence

__all__ = ["verdict_sentences"]

_MOST_SETTINGS = 6
_GROUPS = {
    "unseen": "The weights have not seen these cases.",
    "validation": "The network was not trained on these cases, but they chose the best epoch.",
    "pretraining": "Pre-training has seen these cases.",
    "training": "The network was trained on these cases.",
    "unknown": "Nobody knows whether the network was trained on these cases.",
}


def verdict_sentences(runs: Sequence[RunFolders], scores: Sequence[Mapping[str, CaseScores]]) -> list[str]:
    """Say what each run shows, and how the first one differs from each other one.

    Args:
        runs: the runs.
        scores: evaluated cases of each run.
    """
    found = []
    for run, cases in zip(runs, scores, strict=True):
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        if run.pretrain:
            found.append(prefix + learning_sentence(run.table("pretrain", "training")))
        for row in run.table("evaluate", "evaluation_summary"):
            if row["class"] == "mean":
                group = _GROUPS.get(row["figures"], row["figures"])
                found.append(f"{prefix}The mean Dice of {row['cases']} case(s) is {float(row['dice']):.3f}. {group}")
        if run.evaluate and not cases:
            found.append(f"{prefix}The evaluation has not scored a case.")
        if run.evaluate and _weights_were_replaced(run.evaluate / "evaluation_files.json"):
            found.append(f"{prefix}The weights were replaced after this evaluation: evaluate the new ones.")
        if not run.evaluate:
            found.append(f"{prefix}There is no evaluation. Run configs/evaluate.json to see cases here.")
    for run, cases in zip(runs[1:], scores[1:], strict=True):
        if scores[0] and cases:
            found.append(_difference(runs[0].name, run.name, paired_difference(scores[0], cases)))
        ours, theirs = _settings(runs[0]), _settings(run)
        settings = [f"{key} {ours[key]} and {theirs[key]}" for key in ours if theirs.get(key, ours[key]) != ours[key]]
        if settings:
            more = f"; and {len(settings) - _MOST_SETTINGS} more" if len(settings) > _MOST_SETTINGS else ""
            shown = "; ".join(settings[:_MOST_SETTINGS])
            found.append(f"{runs[0].name} and {run.name} were trained with different settings: {shown}{more}.")
    return found


def _weights_were_replaced(path: Path) -> bool:
    """Return whether the file of the weights that were evaluated has changed since; False if that is not known."""
    weights = read_json_object(path).get("weights") if path.is_file() else None
    return weights is not None and file_state(weights["file"]) not in (weights["state"], [])


def _settings(run: RunFolders) -> dict[str, Any]:
    """Return the settings of the fine-tuning, without what it found and the volumes."""
    recipe: dict[str, Any] = next((found["recipe"] for found in recipes_of(run) if found["step"] == "train"), {})
    return {key: value for key, value in recipe.items() if key not in ("best", "last") and "fingerprints" not in key}


def _difference(first: str, second: str, difference: Difference | None) -> str:
    if difference is None:
        return (
            f"{first} and {second} are not compared: they have no case in common that has the same truth in both and "
            "is equally new to both."
        )
    points = f"{100 * difference.mean:+.1f} Dice points"
    text = f"{first} differs from {second} by {points} on the {difference.cases} case(s) that they share"
    if math.isnan(difference.low):
        return f"{text}. These are too few cases for an interval."
    text += f" (95 % interval over the cases {100 * difference.low:+.1f} to {100 * difference.high:+.1f})."
    if difference.low <= 0 <= difference.high:
        text += " This shows no difference."
    return f"{text} One run each cannot tell what another seed would give."
