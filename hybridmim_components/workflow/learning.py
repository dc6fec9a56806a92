# SPDX-License-Identifier: Apache-2.0

"""Whether a pre-training learnt: each loss term beside the value that guessing gives."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from hybridmim_components.method.losses import LOSS_TERMS
from hybridmim_components.system.files import Row

__all__ = ["LEARNT_SHARE", "final_shares", "learning_sentence", "start_and_end", "terms_of"]

#: A term counts as learnt if it ends below this share of the value that guessing gives.
LEARNT_SHARE = 0.9


def terms_of(rows: Sequence[Row]) -> list[str]:
    """Return the loss terms that a pre-training used and that can be compared with guessing.

    Example:
        >>> terms_of([{"epoch": "1", "number": "1.9", "number_share": "0.97"}])
        ['number']
    """
    return [term for term in LOSS_TERMS if rows and f"{term}_share" in rows[0]]


def start_and_end(rows: Sequence[Row], column: str) -> tuple[float, float]:
    """Return means over the first and the last tenth of the epochs, since single epochs are noisy.

    Example:
        >>> start_and_end([{"loss": "3"}, {"loss": "2"}, {"loss": "1"}], "loss")
        (3.0, 1.0)
    """
    values = [float(row[column]) for row in rows]
    span = max(1, len(values) // 10)
    return fmean(values[:span]), fmean(values[-span:])


def final_shares(rows: Sequence[Row]) -> dict[str, float]:
    """Return the share of guessing at the end of a pre-training, by term.

    The consistency term is left out: two heads that both guess agree with each other.

    Example:
        >>> first = {"number_share": "1.0", "consistency_share": "1.0"}
        >>> last = {"number_share": "0.4", "consistency_share": "0.5"}
        >>> final_shares([first, last])
        {'number': 0.4}
    """
    return {term: start_and_end(rows, f"{term}_share")[1] for term in terms_of(rows) if term != "consistency"}


def learning_sentence(rows: Sequence[Row]) -> str:
    """Say which terms of a pre-training were learnt (ended below 0.9 of guessing), and which were not.

    Args:
        rows: rows of the pre-training's training.csv.

    Example:
        >>> learning_sentence([{"number_share": "0.4", "location_share": "1.01"}])
        'Pre-training learnt number (0.40 of guessing) and did not learn location (1.01).'
    """
    ends = final_shares(rows)
    if not ends:
        return "Pre-training has not finished an epoch."
    groups = {
        "learnt": [f"{_words(term)} ({end:.2f} of guessing)" for term, end in ends.items() if end < LEARNT_SHARE],
        "did not learn": [f"{_words(term)} ({end:.2f})" for term, end in ends.items() if not end < LEARNT_SHARE],
    }
    return "Pre-training " + " and ".join(f"{verb} {', '.join(found)}" for verb, found in groups.items() if found) + "."


def _words(term: str) -> str:
    return term.replace("_", " ")
