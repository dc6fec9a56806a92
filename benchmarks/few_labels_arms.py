# SPDX-License-Identifier: Apache-2.0

"""The arms of few_labels.py: ways to obtain a network, each a file in benchmarks/arms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

__all__ = ["Arm", "read_arms"]

ARMS = Path(__file__).resolve().parent / "arms"


@dataclass(frozen=True)
class Arm:
    """One way to obtain a segmentation network, which the study compares with others.

    Attributes:
        name: name of its file in benchmarks/arms.
        title: name in tables and plots.
        pretrain: overrides of pretrain.json; None: no pre-training.
        train: overrides of train.json.
        longer: whether to add the CPU time of a pre-training to the fine-tuning.
        like: another arm whose pre-training it uses; the two then differ only in fine-tuning.
        times: factor for the CPU time of its pre-training.
    """

    name: str
    title: str
    pretrain: Mapping[str, Any] | None = None
    train: Mapping[str, Any] | None = None
    longer: bool = False
    like: str | None = None
    times: float = 1.0

    @property
    def pretrained_by(self) -> str | None:
        """Name of the arm whose pre-training this one starts from; None: no pre-training."""
        return self.like or (self.name if self.pretrain is not None else None)

    @property
    def recipe(self) -> dict[str, Any]:
        """All that its results depend on, without what has its default."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.default is not MISSING}
        return {name: value for name, value in values.items() if value != getattr(Arm, name)}


def read_arms(folder: Path = ARMS) -> dict[str, Arm]:
    """Read all arms, by name.

    Raises:
        ValueError: when the arm that ``like`` names does not exist or has no pre-training, or when an arm has both
            ``like`` and a pre-training of its own.
    """
    arms = {p.stem: Arm(p.stem, **json.loads(p.read_text(encoding="utf-8"))) for p in sorted(folder.glob("*.json"))}
    for arm in arms.values():
        if arm.like and (arm.like not in arms or arm.pretrain is not None or arms[arm.like].pretrain is None):
            raise ValueError(f"{folder / arm.name}.json: like must name an arm with a pre-training, got {arm.like}")
    return arms
