# Copyright 2026 HybridMIM bundles contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

from __future__ import annotations

import sys

import pytest

from hybridmim_components.method.masking import MaskGrid
from hybridmim_components.system import errors

PROGRAM = "/env/lib/python3.11/site-packages/monai/bundle/__main__.py"


def wrapped_error() -> RuntimeError:
    try:
        try:
            MaskGrid(96, 31, 16)
        except ValueError as error:
            raise RuntimeError("Failed to instantiate") from error
    except RuntimeError as error:
        return error
    raise AssertionError


def test_our_message_stands_alone(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [PROGRAM, "run"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    errors.shorten_tracebacks()
    error = wrapped_error()
    sys.excepthook(type(error), error, error.__traceback__)
    text = capsys.readouterr().err
    assert text.startswith("error: subvolume_size must divide image_size on every axis, got (31, 31, 31)")
    assert "Traceback" not in text


def test_bugs_keep_their_traceback(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [PROGRAM, "run"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    errors.shorten_tracebacks()
    try:
        raise KeyError("a bug")
    except KeyError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    text = capsys.readouterr().err
    assert "Traceback" in text and "cause: " not in text


def test_the_message_that_others_bury_is_repeated_at_the_end(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [PROGRAM, "run"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    errors.shorten_tracebacks()
    try:
        try:
            raise ValueError("max_epochs must be positive, got 0")
        except ValueError as error:
            raise RuntimeError("Failed to evaluate ConfigExpression") from error
    except RuntimeError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    text = capsys.readouterr().err
    assert "Traceback" in text and text.endswith("cause: ValueError: max_epochs must be positive, got 0\n")


@pytest.mark.parametrize("argv", [["/usr/bin/monailabel"], ["/usr/bin/pytest"]])
def test_other_programs_keep_their_hook(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    before = sys.excepthook
    errors.shorten_tracebacks()
    assert sys.excepthook is before


def test_the_full_traceback_is_a_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [PROGRAM, "run"])
    monkeypatch.setenv(errors.FULL_TRACEBACK, "1")
    before = sys.excepthook
    errors.shorten_tracebacks()
    assert sys.excepthook is before
