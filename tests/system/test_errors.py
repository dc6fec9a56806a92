# SPDX-License-Identifier: Apache-2.0

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
