# SPDX-License-Identifier: Apache-2.0

r"""Change of a bundle's configs and of the package's modules so that a bundle runs with its own copy of the package.

An exported bundle holds the package as ``scripts``, the name that the Model Zoo asks for.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

__all__ = ["PACKAGE", "script_of", "vendored"]

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "hybridmim_components"
_ALIAS = re.compile(rf"\$import {PACKAGE}\.([\w.]+) as (\w+)")
# MONAI knows a bundle's root only from `run` on, and imports `scripts` of whichever bundle came first
_OWN_SCRIPTS = [
    "$[sys.modules.pop(name) for name in [*sys.modules] if name.partition('.')[0] == 'scripts']",
    "$sys.path.insert(0, @bundle_root)",
]


def vendored(config: dict[str, Any], step: str) -> dict[str, Any]:
    """Return a config that imports ``scripts`` instead of the package, from the bundle's own folder.

    MONAI runs import statements before ``initialize`` has set the path. Modules therefore become items of the config,
    which are imported when they are first used. The engine is created at the end of ``initialize``, since another
    bundle may replace ``scripts`` by its own before ``run``.

    Args:
        config: content of a config.
        step: name of its file.
    """
    text = json.dumps(config)
    if PACKAGE not in text:
        return config
    result: dict[str, Any] = {}
    for key, value in config.items():
        if key.lstrip("+") != "imports":
            result[key] = value
            continue
        aliases = {alias: module for module, alias in _ALIAS.findall(json.dumps(value))}
        plain = [statement for statement in value if not _ALIAS.fullmatch(statement)]
        result[key] = [*plain, "$import importlib", "$import sys"]
        result |= {alias: f"$importlib.import_module('scripts.{module}')" for alias, module in aliases.items()}
    names = "engines|errors|overrides|distributed|inference"
    # not the name of a file in a message
    modules = re.compile(rf"(?<![\w.@#])({names})\.(?=\w)(?!json\b)")
    result = _mapped(result, lambda text: modules.sub(r"@\1.", text))
    initialize = next((key for key in result if key.lstrip("+") == "initialize"), None)
    if initialize:
        engines = {"evaluate": "$@validate#evaluator", "inference": "$@evaluator"}
        engine = next((item for name, item in engines.items() if name in step), "$@train#trainer")
        result[initialize] = [*_OWN_SCRIPTS, *result[initialize], engine]
    return result


def _mapped(value: Any, of_expression: Any) -> Any:
    """Change every expression, and the package's name in every component."""
    if isinstance(value, dict):
        return {key: _mapped(inner, of_expression) for key, inner in value.items()}
    if isinstance(value, list):
        return [_mapped(inner, of_expression) for inner in value]
    if not isinstance(value, str):
        return value
    if value.startswith("$") and not value.startswith(("$import ", "$importlib.")):
        value = of_expression(value)
    return value.replace(f"{PACKAGE}.", "scripts.")


def script_of(source: Path) -> str:
    """Return the code of a module for ``scripts``, formatted by the zoo's isort and black.

    Both change the code: some lines now fit into one, since ``scripts`` is a shorter name, and isort sorts it as a
    third-party package.
    """
    import black
    import isort

    text = source.read_text(encoding="utf-8").replace(PACKAGE, "scripts")
    text = isort.code(text, config=isort.Config(settings_file=str(ROOT / "ci" / "model_zoo" / "setup.cfg")))
    return black.format_str(text, mode=black.Mode(line_length=120, magic_trailing_comma=False))
