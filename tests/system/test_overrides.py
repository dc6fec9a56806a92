# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hybridmim_components.system.overrides import check_overrides, find_unknown

CONFIG = {
    "train": {"dataloader": 1},
    "epochs": 1,
    "learning_rate": 0.1,
    "allow_seen": False,
    "amp": "$torch.cuda.is_available()",
    "cache": "memory",
    "weights": None,
    "network_def": {"_target_": "BasicUNet", "features": [1]},
    "run": ["$1"],
}
PROGRAM = "/env/lib/python3.11/site-packages/monai/bundle/__main__.py"


@pytest.mark.parametrize(
    "name", ["epochs", "network_def", "network_def#dropout", "network_def::dropout", "run#0", "network_def#features#0"]
)
def test_known_names_pass(name: str) -> None:
    assert find_unknown([name], CONFIG) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("epoch", "epoch (did you mean epochs?)"),
        ("learning-rate", "learning-rate (did you mean learning_rate?)"),
        ("netwrk_def#dropout", "netwrk_def#dropout (did you mean network_def?)"),
        ("network_def#act#name", "network_def#act#name"),
        ("train#dataloder", "train#dataloder"),
        ("zzz", "zzz"),
    ],
)
def test_unknown_names_come_with_the_nearest(name: str, text: str) -> None:
    assert find_unknown([name], CONFIG) == [text]


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    (tmp_path / "train.json").write_text(json.dumps(CONFIG))
    (tmp_path / "evaluate.json").write_text(json.dumps({"class_names": ["spleen"]}))
    return str(tmp_path / "train.json")


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--config_file", "FILE", "--epochs", "2", "--learning-rate", "-1", "--meta_file", "m.json"],
        ["run", "--config_file", "['FILE','OVERLAY']", "--class_names", "['liver']"],
        ["run", "--config_file=FILE,OVERLAY", "--class_names", "x"],
        ["run", "--config_file", "FILE", "--tracking", "mlflow", "--tracking_uri", "x", "--experiment_name", "y"],
        ["verify_net_in_out", "network_def", "--config_file", "FILE", "--epoch", "2"],
    ],
)
def test_command_lines_that_are_right_pass(config_file: str, words: list[str]) -> None:
    overlay = config_file.replace("train", "evaluate")
    check_overrides([PROGRAM, *(w.replace("FILE", config_file).replace("OVERLAY", overlay) for w in words)])


def test_settings_of_tracking_are_unknown_without_it(config_file: str) -> None:
    with pytest.raises(ValueError, match="unknown setting: tracking_uri"):
        check_overrides([PROGRAM, "run", "--config_file", config_file, "--tracking_uri", "x"])


def test_mistyped_overrides_are_refused(config_file: str) -> None:
    with pytest.raises(ValueError, match=r"unknown setting: epoch \(did you mean epochs\?\); foo"):
        check_overrides([PROGRAM, "run", "--config_file", config_file, "-epoch", "-2", "--foo=1"])


def test_the_args_file_is_checked_too(config_file: str, tmp_path: Path) -> None:
    (tmp_path / "args.json").write_text(json.dumps({"config_file": config_file, "lerning_rate": 1}))
    with pytest.raises(ValueError, match=r"lerning_rate \(did you mean learning_rate\?\)"):
        check_overrides([PROGRAM, "run", "--args_file", str(tmp_path / "args.json")])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--allow_seen", "false"], "allow_seen must be True or False, got 'false'"),
        (["--allow_seen=TRUE"], "allow_seen must be True or False, got 'TRUE'"),
        (["--allow_seen", "0"], "allow_seen must be True or False, got 0"),
        (["--amp", "false"], "amp must be written as in Python, False, got 'false'"),
        (["--weights", "null"], "weights must be written as in Python, None, got 'null'"),
        (["--network_def#dropout", "null"], "network_def#dropout must be written as in Python, None, got 'null'"),
        (["--epochs", "many"], "epochs must be a number, got 'many'"),
        (["--learning_rate", "1e-3x"], "learning_rate must be a number, got '1e-3x'"),
        (["--epochs", "True"], "epochs must be a number, got True"),
        (["--epochs", "--allow_seen", "True"], "epochs must be a number, got True"),
    ],
)
def test_values_of_another_type_are_refused(config_file: str, words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_overrides([PROGRAM, "run", "--config_file", config_file, *words])


@pytest.mark.parametrize(
    "words",
    [
        ["--allow_seen", "True"],
        ["--allow_seen=False", "--amp", "False"],
        ["--allow_seen"],
        ["--cache", "none", "--weights", "None"],
        ["--epochs", "$2 * 3", "--learning_rate", "1e-3"],
        ["--epochs", "@other", "--allow_seen", "$1 > 0"],
        ["--learning_rate", "-1"],
        ["--network_def#features#0", "[2,2,1]"],
        ["--network_def#features#0", "None"],
    ],
)
def test_values_as_fire_reads_them_pass(config_file: str, words: list[str]) -> None:
    check_overrides([PROGRAM, "run", "--config_file", config_file, *words])


def test_values_of_an_args_file_are_typed_already(config_file: str, tmp_path: Path) -> None:
    args_file = tmp_path / "args.json"
    args_file.write_text(json.dumps({"config_file": config_file, "allow_seen": False, "epochs": 3, "weights": None}))
    check_overrides([PROGRAM, "run", "--args_file", str(args_file)])
    args_file.write_text(json.dumps({"config_file": config_file, "allow_seen": "false"}))
    with pytest.raises(ValueError, match="allow_seen must be True or False, got 'false'"):
        check_overrides([PROGRAM, "run", "--args_file", str(args_file)])


def test_other_programs_are_left_alone(config_file: str) -> None:
    check_overrides(["/usr/bin/monailabel", "run", "--config_file", config_file, "--foo", "1"])
    check_overrides(["/usr/bin/pytest", "--foo"])
