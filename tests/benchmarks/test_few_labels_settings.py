# SPDX-License-Identifier: Apache-2.0

"""The settings of the few-label study are checked, and a folder knows whose results it holds."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from few_labels_arms import read_arms
from few_labels_patients import StudyError
from few_labels_settings import Settings, keep_record, kept_settings, read_settings, record_of


@pytest.fixture
def patients() -> Any:
    """Two cases, and no further volumes."""
    return SimpleNamespace(cases={"case_1": {}, "case_2": {}}, further=[])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "must be a JSON object: "),
        ("[1]", "with no other names than test, tuning, pretrain, train, got list"),
        ('{"spacing": [4, 4, 4]}', "with no other names than test, tuning, pretrain, train, got spacing"),
        ('{"test": 1}', "test must be at least 2 patients, got 1"),
        ('{"tuning": "8"}', "tuning must be at least 2 patients, got '8'"),
        ('{"train": 3}', "train must be a JSON object of overrides, got 3"),
        ('{"train": {"learning_rate": 1}}', "train must leave to the study what it sets itself, got learning_rate"),
        ('{"pretrain": {"seed": 1, "allow_seen": true}}', "what it sets itself, got allow_seen, seed"),
    ],
)
def test_unusable_settings_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "settings.json"
    path.write_text(content)
    with pytest.raises(StudyError, match=re.escape(str(path)) + ".*" + re.escape(message)):
        read_settings(path)
    with pytest.raises(StudyError, match="cannot read the settings .*nowhere.json: No such file"):
        read_settings(tmp_path / "nowhere.json")


def test_a_folder_knows_whose_results_it_holds(patients: Any, tmp_path: Path) -> None:
    own = Settings(5, 3, {}, {"spacing": [4, 4, 4]})
    record = record_of("btcv_unet", patients, own, 10.0, {})
    keep_record(record_of("btcv_unet", patients, Settings(), 10.0, {}), {"--output": tmp_path})
    keep_record(record, {"--output": tmp_path})  # no results yet
    assert kept_settings(tmp_path) == own and kept_settings(tmp_path / "other") is None
    (tmp_path / "tuning.csv").touch()
    keep_record(record, {"--output": tmp_path})
    with pytest.raises(StudyError, match="another study, bundle was btcv_unet, is msd_liver_unet: give another --out"):
        keep_record(record_of("msd_liver_unet", patients, own, 10.0, {}), {"--output": tmp_path})
    with pytest.raises(StudyError, match="test was 5, is 6; train was .*: give another --output"):
        keep_record(record_of("btcv_unet", patients, Settings(6, 3), 10.0, {}), {"--output": tmp_path})
    further = SimpleNamespace(cases=patients.cases, further=["/a/x.nii"])
    with pytest.raises(StudyError, match="unlabelled_dirs was none, is 1 volume"):
        keep_record(record_of("btcv_unet", further, own, 10.0, {}), {"--output": tmp_path})
    with pytest.raises(StudyError, match="another study, pretraining_minutes was 10.0, is 5.0: give another --output"):
        keep_record(record_of("btcv_unet", patients, own, 5.0, {}), {"--output": tmp_path})
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(StudyError, match="study.json must be the record of a study: KeyError"):
        kept_settings(tmp_path)


def test_an_arm_that_was_changed_needs_another_name(patients: Any, tmp_path: Path) -> None:
    def keep(**arms: dict[str, Any]) -> None:
        keep_record(record_of("btcv_unet", patients, Settings(), 10.0, arms), {"--output": tmp_path})

    (tmp_path / "cells.csv").write_text("arm,dice\ntheirs,0.5\nscratch,0.5\n")
    keep(scratch={}, ours={"pretrain": {"mistyped": "full"}})
    keep(theirs={"like": "ours"}, ours={"pretrain": {"region": "full"}})  # without results so far
    keep(scratch={})
    text = (
        "arm theirs was {'like': 'ours'}, is {'like': 'scratch'}: give another --output, or the changed arm another na"
    )
    with pytest.raises(StudyError, match=text):
        keep(theirs={"like": "scratch"})
    other = tmp_path / "work"
    with pytest.raises(StudyError, match="pretraining_minutes was 10.0, is 5.0; arm theirs was"):
        keep_record(
            record_of("btcv_unet", patients, Settings(), 5.0, {"theirs": {}}), {"--work": other, "--output": tmp_path}
        )
    assert not other.exists(), "nothing is written if one folder is refused"
    (other / "pretrained" / "my_arm_0_50").mkdir(parents=True)
    (other / "pretrained" / "my_arm_0_50" / "done").touch()
    for times in (1, 3):
        record = record_of("btcv_unet", patients, Settings(), 10.0, {"my_arm": {"times": times}})
        if times == 1:
            keep_record(record, {"--work": other})
    with pytest.raises(StudyError, match="arm my_arm was {'times': 1}, is {'times': 3}: give another --work, or"):
        keep_record(record, {"--work": other})
    assert read_arms()["scratch"].recipe == {} and read_arms()["hybridmim"].recipe == {"pretrain": {}}
    assert read_arms()["hybridmim_grown"].recipe["like"] == "hybridmim"


def test_older_results_are_those_of_the_usual_settings(patients: Any, tmp_path: Path) -> None:
    (tmp_path / "pretrained" / "hybridmim_0_50").mkdir(parents=True)
    (tmp_path / "pretrained" / "hybridmim_0_50" / "done").touch()
    with pytest.raises(StudyError, match="they were computed without own train: give another --work"):
        keep_record(
            record_of("btcv_unet", patients, Settings(train={"spacing": [4, 4, 4]}), 10.0, {}), {"--work": tmp_path}
        )
    keep_record(record_of("btcv_unet", patients, Settings(), 10.0, {}), {"--work": tmp_path})
