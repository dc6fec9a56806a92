# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest

from hybridmim_components.weights.case_groups import case_name, group_cases

RECIPE = {"training_volumes": ["t"], "pretraining_volumes": ["t", "p", "v2"], "validation_volumes": ["v", "v2", "t"]}


def groups(recipe: dict, *cases: tuple[str, list[str]]) -> dict[str, str]:
    items = [{"case_id": name, "image": f"/{number}.nii"} for number, (name, _) in enumerate(cases)]
    digests = {(f"/{number}.nii",): own for number, (_, own) in enumerate(cases)}
    return group_cases(items, digests, recipe)


def test_fingerprints_decide_and_what_claims_least_counts() -> None:
    cases = [("a", ["t"]), ("b", ["p"]), ("c", ["v"]), ("d", ["v2"]), ("e", ["new"])]
    expected = ["training", "pretraining", "validation", "pretraining", "unseen"]
    assert list(groups(RECIPE, *cases).values()) == expected


def test_one_modality_is_enough() -> None:
    assert groups(RECIPE, ("a", ["new", "t"]), ("b", ["new", "newer"])) == {"a": "training", "b": "unseen"}


@pytest.mark.parametrize("lacking", ["training_volumes", "validation_volumes"])
def test_weights_that_do_not_tell_leave_a_case_unknown(lacking: str) -> None:
    recipe = {key: value for key, value in RECIPE.items() if key != lacking}
    assert groups(recipe, ("a", ["new"]), ("b", ["p"])) == {"a": "unknown", "b": "pretraining"}
    assert groups({}, ("a", ["t"])) == {"a": "unknown"}


def test_of_two_cases_with_one_name_neither_claims_more_than_the_other() -> None:
    for cases in ([("a", ["t"]), ("a", ["new"])], [("a", ["new"]), ("a", ["t"])]):
        assert groups(RECIPE, *cases) == {"a": "training"}


@pytest.mark.parametrize(
    ("file", "name"),
    [("/d/case.v1.nii.gz", "case.v1"), ("case.nii", "case"), ("d/case.mhd", "case"), (r"x.nii.gz", "x")],
)
def test_names_from_files(file: str, name: str) -> None:
    assert case_name({"label": file}) == case_name({}, file) == name
    assert case_name({"label": file, "case_id": 7}) == "7"


def test_a_case_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="a case needs a name"):
        case_name({"image": "a.nii"})
