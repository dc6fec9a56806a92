# SPDX-License-Identifier: Apache-2.0

"""Check of overrides: ``monai.bundle run`` accepts mistyped names, and ``false`` as a text, which counts as true."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.scripts import run
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

from hybridmim_components.system.errors import is_bundle_command

__all__ = ["check_overrides", "find_mistyped", "find_unknown"]


_NOTHING = object()
# as JSON writes them; Fire knows Python's words alone, and takes these for texts
_JSON_WORDS = {"true": "True", "false": "False", "null": "None"}
_OF_SEVERAL_TYPES = ("fold",)  # a number, all, standard, or a list of cases


def check_overrides(argv: Sequence[str] | None = None) -> None:
    """Refuse overrides of ``monai.bundle run`` with unknown names or values of another type than the setting's.

    They may come from the command line or the ``args_file``. Nothing is checked if another command started this
    process.

    Args:
        argv: command line; default ``sys.argv``.

    Raises:
        ValueError: when an override is unknown; names each of them and the nearest name that exists. When a value has
            the wrong type; names setting, rule and value.

    Example:
        >>> _ = Path("train.json").write_text('{"epochs": 50}')
        >>> check_overrides(["monai/bundle/__main__.py", "run", "--config_file", "train.json", "--epoch", "5"])
        Traceback (most recent call last):
        ValueError: unknown setting: epoch (did you mean epochs?)
    """
    words = list(sys.argv if argv is None else argv)
    if len(words) < 2 or not is_bundle_command(words[0]) or words[1] not in ("run", "run_workflow"):
        return
    given: dict[str, Any] = {name: _parsed(text) for name, text in _options(words[2:]).items()}
    if given.get("args_file"):
        # as in MONAI, the command line overrides the args_file
        given = {**ConfigParser.load_config_file(given["args_file"]), **given}
    files = given.get("config_file")
    if not files:
        return
    config = {**_tracking(given.get("tracking")), **ConfigParser.load_config_files(_as_list(files))}
    own = (set(inspect.signature(run).parameters) - {"override"}) | {
        "workflow_name",
        "workflow_type",
        "properties_path",
    }
    given = {name: value for name, value in given.items() if name not in own}
    unknown = find_unknown(list(given), config)
    if unknown:
        raise ValueError(f"unknown setting: {'; '.join(unknown)}")
    mistyped = find_mistyped(given, config)
    if mistyped:
        raise ValueError("; ".join(mistyped))


def find_mistyped(given: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Find overrides whose value has another type than the setting, which would be used without a word or fail late.

    A switch needs ``True`` or ``False``, and a number must not be a text or a switch. References and expressions are
    taken as they are.

    Args:
        given: values by name, as Fire passes them on.
        config: the config that they override.

    Returns:
        One text per wrong value.

    Example:
        >>> find_mistyped({"amp": "false", "epochs": "many", "seed": 3}, {"amp": True, "epochs": 5, "seed": 0})
        ["amp must be True or False, got 'false'", "epochs must be a number, got 'many'"]
    """
    texts = []
    for name, value in given.items():
        if isinstance(value, str) and value[:1] in ("$", "@", "%"):
            continue
        default = _descend(name.lstrip("+").replace("::", "#").split("#"), config)
        if isinstance(default, bool) and not isinstance(value, bool):
            texts.append(f"{name} must be True or False, got {value!r}")
        elif isinstance(value, str) and value.lower() in _JSON_WORDS:
            texts.append(f"{name} must be written as in Python, {_JSON_WORDS[value.lower()]}, got {value!r}")
        elif _is_number(default) and isinstance(value, (str, bool)) and name not in _OF_SEVERAL_TYPES:
            texts.append(f"{name} must be a number, got {value!r}")
    return texts


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _parsed(text: str) -> Any:
    """Return a value of the command line as Fire passes it on: a literal of Python, or else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def find_unknown(names: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """Find names of overrides that do not exist in a config.

    Every part of a nested name (``network_def#features`` or ``network_def::features``) must exist. Only the last part
    may be new, and only in a component (``_target_``), since a config does not list arguments that keep their default.

    Returns:
        One text per unknown name, with the nearest known name.
    """
    knobs = [key for key in config if not key.startswith("_")]
    texts = []
    for name in names:
        parts = name.lstrip("+").replace("::", "#").split("#")
        if not _exists(parts, config) and not (len(parts) > 1 and _is_component(parts[:-1], config)):
            nearest = difflib.get_close_matches(parts[0], [k for k in knobs if k != parts[0]], n=1)
            texts.append(name + (f" (did you mean {nearest[0]}?)" if nearest else ""))
    return texts


def _tracking(chosen: str | None) -> dict[str, Any]:
    """Return the settings that MONAI adds to a config with ``--tracking``, such as ``experiment_name``."""
    if not chosen:
        return {}
    known: Mapping[str, Any] = DEFAULT_EXP_MGMT_SETTINGS
    return dict((known.get(chosen) or ConfigParser.load_config_files(chosen))["configs"])


def _exists(parts: Sequence[str], config: Any) -> bool:
    return _descend(parts, config) is not _NOTHING


def _is_component(parts: Sequence[str], config: Any) -> bool:
    found = _descend(parts, config)
    return isinstance(found, Mapping) and "_target_" in found


def _descend(parts: Sequence[str], config: Any) -> Any:
    for part in parts:
        if isinstance(config, Mapping) and part in config:
            config = config[part]
        elif isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        else:
            return _NOTHING
    return config


def _options(words: Sequence[str]) -> dict[str, Any]:
    """Parse options as Fire does: ``--name value``, ``--name=value``, ``-name value``. Dashes become underscores."""
    options: dict[str, Any] = {}
    for i, word in enumerate(words):
        if not _is_option(word):
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if not equals:
            value = words[i + 1] if i + 1 < len(words) and not _is_option(words[i + 1]) else "True"
        options[name.replace("-", "_")] = value
    return options


def _is_option(word: str) -> bool:
    """Return whether a word names an option, which is a dash and a letter. ``-1`` is a value."""
    return re.match(r"--?\+?[A-Za-z_]", word) is not None


def _as_list(files: str | Sequence[str]) -> list[str]:
    if not isinstance(files, str):
        return list(files)
    try:
        parsed = ast.literal_eval(files)
    except (ValueError, SyntaxError):
        return [f.strip().strip("'\"") for f in files.strip("[]").split(",")]
    return list(parsed) if isinstance(parsed, (list, tuple)) else [str(parsed)]
