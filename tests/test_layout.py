# SPDX-License-Identifier: Apache-2.0

"""A newcomer finds his way: rooms that do not import each other in circles, and modules whose names tell them apart."""

from __future__ import annotations

import ast
import subprocess
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import hybridmim_components

PACKAGE = Path(hybridmim_components.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
ROOT = Path(__file__).parents[1]


def imported_rooms(module: Path) -> set[str]:
    """Rooms of the package that a module imports, inside functions too."""
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = [f"{node.module}.{alias.name}" for node in froms for alias in node.names if alias.name != "__version__"]
    names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    parts = [name.split(".") for name in names if name.startswith("hybridmim_components.")]
    return {part[1] for part in parts} - {module.parts[0]}


def test_rooms_do_not_import_each_other_in_circles() -> None:
    rooms: dict[str, set[str]] = {}
    for module in MODULES:
        rooms.setdefault(module.parts[0], set()).update(imported_rooms(module))
    order = list(TopologicalSorter(rooms).static_order())
    assert order.index("system") < order.index("data") < order.index("store") < order.index("__main__.py")


def test_the_root_holds_rooms_alone_and_each_module_has_a_name_of_its_own() -> None:
    assert {module.name for module in MODULES if len(module.parts) == 1} == {"__init__.py", "__main__.py"}
    names = Counter(module.name for module in MODULES if module.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_each_source_file_names_its_licence() -> None:
    listed = subprocess.run(["git", "ls-files", "*.py", "*.sh", ".ci/run"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]  # but for deleted ones
    assert paths
    for path in paths:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert not lines or "# SPDX-License-Identifier: Apache-2.0" in lines[:2], path
