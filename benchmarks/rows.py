# SPDX-License-Identifier: Apache-2.0

"""Rows of a CSV file that a benchmark adds one by one; a kill at any time leaves only complete rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridmim_components.system.files import write_text

__all__ = ["add_rows", "read_rows"]


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file, without an unfinished last line; none if there is no file."""
    return list(csv.DictReader(io.StringIO(_whole_lines(path))))


def add_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to a CSV file atomically; the first row defines the columns."""
    text, before = io.StringIO(), _whole_lines(path)
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    if not before:
        writer.writeheader()
    writer.writerows(rows)
    write_text(path, before + text.getvalue())


def _whole_lines(path: Path) -> str:
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return text[: text.rfind("\n") + 1]
