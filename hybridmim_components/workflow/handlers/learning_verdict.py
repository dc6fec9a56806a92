# SPDX-License-Identifier: Apache-2.0

"""Handler that says at the end of a pre-training what it learnt, and warns of what it did not."""

from __future__ import annotations

import logging
from pathlib import Path

import ignite.distributed as idist
from ignite.engine import Engine, Events

from hybridmim_components.system.files import read_table
from hybridmim_components.workflow.learning import LEARNT_SHARE, final_shares, learning_sentence

__all__ = ["LearningVerdict"]

logger = logging.getLogger(__name__)


class LearningVerdict:
    """Handler that compares each loss term with guessing when a pre-training has ended.

    A falling total loss does not show that each term was learnt: the reconstruction may improve while the heads still
    guess. A term that ends at more than :data:`.learning.LEARNT_SHARE` of guessing gives a warning.

    Args:
        path: training.csv of :class:`.History`, which must be attached first.

    Example:
        >>> import sys
        >>> with open("training.csv", "w") as file:
        ...     print("epoch", "number_share", sep=",", file=file)
        ...     print(1, 0.97, sep=",", file=file)
        >>> trainer = Engine(lambda engine, batch: None)
        >>> LearningVerdict("training.csv").attach(trainer)
        >>> logger.addHandler(screen := logging.StreamHandler(sys.stdout))
        >>> _ = trainer.run([0])
        Pre-training did not learn number (0.97). Train longer, or raise number_weight.
        >>> logger.removeHandler(screen)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Log the verdict."""
        if idist.get_rank() > 0 or not self.path.is_file():
            return
        rows = read_table(self.path)
        unlearnt = [term for term, share in final_shares(rows).items() if not share < LEARNT_SHARE]
        if not unlearnt:
            logger.info(learning_sentence(rows))
            return
        settings = " or ".join(f"{term}_weight" for term in unlearnt)
        logger.warning("%s Train longer, or raise %s.", learning_sentence(rows), settings)
