# SPDX-License-Identifier: Apache-2.0

"""Seeded splits by case id: the same in every config, on every machine and on every rank."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

__all__ = ["NUM_FOLDS", "Split", "hold_out", "shuffled", "split_cases"]

NUM_FOLDS = 5

logger = logging.getLogger(__name__)


class Split(NamedTuple):
    """Case ids of one split."""

    training: list[str]
    validation: list[str]


def shuffled(ids: Sequence[str], seed: int) -> list[str]:
    """Put ids in a random order that depends only on each id and the seed.

    Adding a case does not change the order of the others. No library's random generator is used, so that no release of
    a library changes the order.

    Raises:
        ValueError: when an id occurs twice.

    Example:
        >>> shuffled(["a", "b", "c", "d"], seed=0)
        ['d', 'a', 'c', 'b']
        >>> shuffled(["a", "b", "c"], seed=0)
        ['a', 'c', 'b']
    """
    twice = {i for i in ids if list(ids).count(i) > 1} if len(set(ids)) < len(ids) else set()
    if twice:
        raise ValueError(f"case ids must be unique, got twice: {', '.join(sorted(twice))}")
    return sorted(ids, key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).digest())


def split_cases(
    ids: Sequence[str],
    fold: int | str | Sequence[str] = 0,
    seed: int = 0,
    label_fraction: float = 1.0,
    standard_validation: Sequence[str] = (),
    subject_of: Callable[[str], str] = str,
) -> Split:
    """Split cases into training and validation, and keep all cases of a subject on one side.

    Args:
        ids: all case ids.
        fold: 0..4 of a 5-fold cross-validation; ``standard``: the split that publications use, if the data set has one;
            a list of case ids to validate on; or ``all``: every case is in training and in validation.
        seed: seed of the split, independent of a run's own seed, so that repeats share their split.
        label_fraction: share of the training subjects to keep, in (0, 1]; at least one subject is kept. For the same
            seed and fold, a smaller share is a subset of a larger one.
        standard_validation: validation cases of the standard split. Every other case is for training.
        subject_of: function from a case to its subject; default: each case is a subject. Folds and fractions count
            subjects.

    Returns:
        Training and validation ids.

    Raises:
        ValueError: when an argument is out of range or a part of the split would be empty.

    Example:
        >>> split_cases(["a", "b", "c", "d", "e"], fold=0)
        Split(training=['a', 'c', 'b', 'e'], validation=['d'])
        >>> eyes = ["1_left", "1_right", "2_left", "2_right"]
        >>> split_cases(eyes, fold=["1_left"], subject_of=lambda case: case[0])  # 1_right is in neither
        Split(training=['2_left', '2_right'], validation=['1_left'])
    """
    held_out = _held_out_by_name(ids, fold, standard_validation)
    if not 0 < label_fraction <= 1:
        raise ValueError(f"label_fraction must be in (0, 1], got {label_fraction}")
    cases: dict[str, list[str]] = {}
    for case in shuffled(ids, seed):
        cases.setdefault(subject_of(case), []).append(case)
    order = shuffled(list(cases), seed)
    if isinstance(fold, str) and fold == "all":
        training, validation = order, order
    elif held_out is None:
        validation = order[int(str(fold)) :: NUM_FOLDS]
        training = [subject for number, subject in enumerate(order) if number % NUM_FOLDS != fold]
    else:
        validation = [subject for subject in order if held_out.intersection(cases[subject])]
        training = [subject for subject in order if not held_out.intersection(cases[subject])]
    if not training or not validation:
        usable = f"0..{min(len(order), NUM_FOLDS) - 1} or 'all'" if len(order) > 1 else "'all'"
        raise ValueError(
            f"fold {fold} leaves no training or no validation with {len(order)} subject(s): set fold to {usable}"
        )
    kept = [case for subject in training[: max(1, round(label_fraction * len(training)))] for case in cases[subject]]
    if fold == "all":
        return Split(kept, kept)
    validated = [case for subject in validation for case in cases[subject]]
    return Split(kept, validated if held_out is None else [case for case in validated if case in held_out])


def _held_out_by_name(
    ids: Sequence[str], fold: int | str | Sequence[str], standard_validation: Sequence[str]
) -> set[str] | None:
    """Return the validation cases of a fold that names them, or None for a numbered fold and for ``all``."""
    if isinstance(fold, (list, tuple)):
        unknown = sorted(set(fold) - set(ids))
        if unknown or not fold:
            raise ValueError(f"fold must list cases of the data set to validate on, got {unknown or 'none'}")
        return set(fold)
    if fold == "standard" and standard_validation:
        absent = sorted(set(standard_validation) - set(ids))
        if len(absent) == len(standard_validation):
            raise ValueError(f"fold 'standard' needs cases that end in {', '.join(absent)}, got none of them")
        if absent:
            logger.warning("The standard split lacks %s: figures are not those of others", ", ".join(absent))
        return set(standard_validation)
    if fold != "all" and (isinstance(fold, bool) or not isinstance(fold, int) or fold not in range(NUM_FOLDS)):
        names = "'all' or 'standard'" if standard_validation else "'all'"
        raise ValueError(f"fold must be {names}, one of 0..{NUM_FOLDS - 1}, or a list of case ids, got {fold!r}")
    return None


def hold_out(ids: Sequence[str], fraction: float, seed: int) -> Split:
    """Hold out a share of ids for validation, but at least one id.

    Raises:
        ValueError: when the fraction is outside (0, 1), or when there are fewer than 2 ids.

    Example:
        >>> hold_out(["a", "b", "c", "d"], fraction=0.25, seed=0)
        Split(training=['a', 'c', 'b'], validation=['d'])
    """
    if not 0 < fraction < 1:
        raise ValueError(f"val_fraction must be in (0, 1), got {fraction}")
    if len(ids) < 2:
        raise ValueError(f"pre-training needs at least 2 volumes, one of them held out, got {len(ids)}")
    order = shuffled(ids, seed)
    held = min(len(order) - 1, max(1, round(fraction * len(order))))
    return Split(order[held:], order[:held])
