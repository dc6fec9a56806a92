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

"""A newcomer finds his way: rooms that do not import each other in circles, and modules whose names tell them apart."""

from __future__ import annotations

import ast
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import hybridmim_components

PACKAGE = Path(hybridmim_components.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


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
