# SPDX-License-Identifier: Apache-2.0

"""Splits of any case ids."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from hybridmim_components.data.splits import NUM_FOLDS, hold_out, shuffled, split_cases

IDS = st.lists(st.text(min_size=1, max_size=8), min_size=NUM_FOLDS, max_size=30, unique=True)
SEEDS = st.integers(0, 2**40)


@given(IDS, SEEDS)
def test_each_case_is_validated_on_in_one_fold(ids: list[str], seed: int) -> None:
    splits = [split_cases(ids, fold, seed) for fold in range(NUM_FOLDS)]
    assert sorted(case for split in splits for case in split.validation) == sorted(ids)
    for split in splits:
        assert sorted([*split.training, *split.validation]) == sorted(ids)


@given(IDS, SEEDS, st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_smaller_share_of_labels_is_part_of_a_larger_one(ids: list[str], seed: int, one: float, other: float) -> None:
    less, more = (split_cases(ids, 0, seed, share) for share in sorted((one, other)))
    assert less.training == more.training[: len(less.training)] and less.training
    assert less.validation == more.validation


@given(IDS, SEEDS, st.randoms(use_true_random=False))
def test_neither_the_order_nor_a_further_case_moves_the_others(ids: list[str], seed: int, random: Random) -> None:
    mixed = list(ids)
    random.shuffle(mixed)
    assert shuffled(mixed, seed) == shuffled(ids, seed)
    assert [i for i in shuffled(ids, seed) if i != ids[0]] == shuffled(ids[1:], seed)


@given(IDS, st.floats(0.001, 0.999), SEEDS)
def test_what_is_held_out_is_not_trained_on(ids: list[str], fraction: float, seed: int) -> None:
    split = hold_out(ids, fraction, seed)
    assert split.training and split.validation
    assert sorted([*split.training, *split.validation]) == sorted(ids)


FOLDS = st.one_of(
    st.integers(-3, 9),
    st.booleans(),
    st.none(),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.text(max_size=2), max_size=3),
)


@given(st.lists(st.text(max_size=2), max_size=8), FOLDS, st.floats())
def test_any_setting_gives_a_split_or_a_clear_error(ids: list[str], fold: object, share: float) -> None:
    try:
        split = split_cases(ids, fold, label_fraction=share)
    except ValueError as error:
        assert any(name in str(error) for name in ("fold", "label_fraction", "case ids must be unique"))
        return
    assert split.training and split.validation and {*split.training, *split.validation} <= set(ids)
