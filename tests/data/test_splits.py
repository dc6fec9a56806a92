# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridmim_components.data import DATASETS
from hybridmim_components.data.splits import NUM_FOLDS, hold_out, split_cases

IDS = [f"case_{i}" for i in range(41)]


def test_folds_partition_the_cases() -> None:
    held = [i for fold in range(NUM_FOLDS) for i in split_cases(IDS, fold).validation]
    assert sorted(held) == sorted(IDS)
    for fold in range(NUM_FOLDS):
        training, validation = split_cases(IDS, fold)
        assert sorted(training + validation) == sorted(IDS)
        assert len(validation) in (8, 9)


@given(st.permutations(IDS), st.integers(0, 4), st.integers(0, 5))
def test_the_order_of_the_listing_does_not_matter(ids: list[str], fold: int, seed: int) -> None:
    assert split_cases(ids, fold, seed) == split_cases(IDS, fold, seed)


def test_the_split_is_the_same_on_every_machine() -> None:
    # written down: a change of the split would void every earlier comparison
    assert split_cases([f"spleen_{i}" for i in range(10)], 0, 0).validation == ["spleen_2", "spleen_6"]


def test_seeds_differ() -> None:
    assert split_cases(IDS, 0, seed=0) != split_cases(IDS, 0, seed=1)


def test_label_fractions_are_nested_and_leave_validation_alone() -> None:
    fractions = [0.01, 0.1, 0.2, 0.5, 1.0]
    splits = [split_cases(IDS, 2, 0, f) for f in fractions]
    assert [len(s.training) for s in splits] == [1, 3, 7, 16, 33]
    for smaller, larger in zip(splits, splits[1:], strict=False):
        assert set(smaller.training) < set(larger.training)
        assert smaller.validation == larger.validation


def test_fold_all_validates_on_what_it_trains_on() -> None:
    split = split_cases(IDS, "all", label_fraction=0.1)
    assert split.training == split.validation and len(split.training) == 4
    assert sorted(split_cases(["a", "b"], "all").training) == ["a", "b"]


def test_pretraining_holds_out_at_least_one_and_keeps_at_least_one() -> None:
    assert [len(p) for p in hold_out(["a", "b"], 0.01, 0)] == [1, 1]
    assert [len(p) for p in hold_out(["a", "b"], 0.99, 0)] == [1, 1]
    assert [len(p) for p in hold_out(IDS, 0.1, 0)] == [37, 4]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split_cases(IDS, 5), r"fold must be 'all', one of 0\.\.4, or a list of case ids, got 5"),
        (lambda: split_cases(IDS, 1.0), r"fold must be .* got 1\.0"),
        (lambda: split_cases(IDS, "al"), "fold must be .* got 'al'"),
        (lambda: split_cases(IDS, 0, 0, 0), r"label_fraction must be in \(0, 1\], got 0"),
        (lambda: split_cases(["a", "b"], 3), r"fold 3 leaves no .* with 2 subject\(s\): set fold to 0\.\.1 or 'all'"),
        (lambda: split_cases(["a"], 0), r"fold 0 leaves no training .* with 1 subject\(s\): set fold to 'all'"),
        (lambda: split_cases(["a", "b", "a"], 0), "case ids must be unique, got twice: a"),
        (lambda: hold_out(["a"], 0.1, 0), "needs at least 2 volumes, one of them held out, got 1"),
        (lambda: hold_out(IDS, 1.0, 0), r"val_fraction must be in \(0, 1\), got 1.0"),
    ],
)
def test_impossible_splits_are_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_the_standard_split_is_the_published_one(caplog: pytest.LogCaptureFixture) -> None:
    published = [f"img{n:04d}" for n in (*range(1, 11), *range(21, 41))]
    held_out = published[-6:]
    split = split_cases(published, "standard", standard_validation=held_out)
    assert sorted(split.validation) == held_out and sorted(split.training) == published[:24]
    tenth = split_cases(published, "standard", label_fraction=0.1, standard_validation=held_out).training
    fifth = split_cases(published, "standard", label_fraction=0.2, standard_validation=held_out).training
    assert len(tenth) == 2 and tenth == fifth[:2]
    assert not caplog.text
    split_cases(published[:-1], "standard", standard_validation=held_out)
    assert "The standard split lacks img0040" in caplog.text
    with pytest.raises(ValueError, match="fold 'standard' needs cases that end in img0035, .* got none of them"):
        split_cases(published[:24], "standard", standard_validation=held_out)
    with pytest.raises(ValueError, match=r"fold must be 'all', one of 0..4, or a list of case ids, got 'standard'"):
        split_cases(published, "standard")


def test_a_fold_may_name_its_cases() -> None:
    split = split_cases(["a", "b", "c", "d"], ["c", "a"], label_fraction=0.5)
    assert sorted(split.validation) == ["a", "c"] and len(split.training) == 1 and split.training[0] in "bd"
    with pytest.raises(ValueError, match=r"fold must list cases of the data set to validate on, got \['x'\]"):
        split_cases(["a", "b"], ["x", "a"])
    with pytest.raises(ValueError, match="to validate on, got none"):
        split_cases(["a", "b"], [])
    with pytest.raises(ValueError, match="leaves no training .* with 2"):
        split_cases(["a", "b"], ["a", "b"])


def test_all_cases_of_a_subject_are_on_one_side() -> None:
    subject_of = DATASETS["msd_hippocampus"].subject_of
    ids = [f"hippocampus_{i:03d}" for i in range(1, 61) if i % 7]
    assert subject_of("hippocampus_001") == subject_of("hippocampus_002") != subject_of("hippocampus_003")
    folds = [split_cases(ids, fold, subject_of=subject_of) for fold in range(NUM_FOLDS)]
    for split in folds:
        assert sorted(split.training + split.validation) == sorted(ids)
        assert not {subject_of(i) for i in split.training} & {subject_of(i) for i in split.validation}
    assert sorted(i for split in folds for i in split.validation) == sorted(ids)
    few = split_cases(ids, 0, label_fraction=0.1, subject_of=subject_of).training
    assert few == folds[0].training[: len(few)] and len({subject_of(i) for i in few}) == 2
    # the other side of a case that is held out by name is on neither side
    named = split_cases(ids, ["hippocampus_001"], subject_of=subject_of)
    assert named.validation == ["hippocampus_001"] and "hippocampus_002" not in named.training
