# SPDX-License-Identifier: Apache-2.0

"""A pre-training is told to have learnt what it learnt, and no more."""

from __future__ import annotations

import csv
import logging
import math
from pathlib import Path

import pytest
from ignite.engine import Engine

from hybridmim_components.workflow.handlers import LearningVerdict
from hybridmim_components.workflow.learning import learning_sentence


def shares(**ends: float) -> list[dict[str, str]]:
    """Rows of ten epochs that start at guessing."""
    start = {f"{term}_share": "1.0" for term in ends}
    return [start] * 9 + [{f"{term}_share": str(end) for term, end in ends.items()}]


def test_a_term_at_guessing_is_not_called_learnt() -> None:
    sentence = learning_sentence(shares(partial_region=0.4, number=0.89, location=0.9, consistency=0.01, contrast=1.2))
    learnt, _, rest = sentence.partition(" and did not learn ")
    assert learnt == "Pre-training learnt partial region (0.40 of guessing), number (0.89 of guessing)"
    assert rest == "location (0.90), contrast (1.20)."
    assert learning_sentence(shares(number=math.nan)) == "Pre-training did not learn number (nan)."
    assert learning_sentence([]) == "Pre-training has not finished an epoch."


@pytest.mark.parametrize(
    ("location", "level", "end"),
    [(0.5, logging.INFO, "location (0.50 of guessing)."), (1.0, logging.WARNING, "or raise location_weight.")],
)
def test_the_end_of_a_run_warns_of_terms_at_guessing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, location: float, level: int, end: str
) -> None:
    rows = shares(partial_region=0.4, location=location)
    with (tmp_path / "training.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    engine = Engine(lambda engine, batch: None)
    LearningVerdict(tmp_path / "training.csv").attach(engine)
    with caplog.at_level(logging.INFO):
        engine.run([0], max_epochs=1)
    (record,) = [record for record in caplog.records if "learning_verdict" in record.name]
    assert record.levelno == level and record.getMessage().endswith(end)
