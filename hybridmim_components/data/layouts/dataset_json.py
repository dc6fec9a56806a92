# SPDX-License-Identifier: Apache-2.0

"""dataset.json, the Decathlon's table of a task, as a cross-check of known data sets. Its paths are never followed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybridmim_components.data.layouts.find_cases import Found, case_id_of
from hybridmim_components.system.files import read_json_object

__all__ = ["compare_dataset_json", "exchanged_names", "is_ct", "label_names"]

_LABEL_VALUE = re.compile(r"[0-9]{1,9}")


def label_names(root: Path) -> dict[int, str]:
    """Read the names by label value from dataset.json.

    Raises:
        ValueError: when the file does not exist or has no valid table of labels.
    """
    file = root / "dataset.json"
    rule = "dataset.json must have a table 'labels' of values and names"
    try:
        labels = read_json_object(file).get("labels")
    except (OSError, ValueError) as error:
        raise ValueError(f"{rule}, cannot read {file}: {error}") from error
    if not isinstance(labels, dict) or not labels:
        raise ValueError(f"{rule}, there is none in {file}")
    names: dict[int, str] = {}
    for value, name in labels.items():
        number = int(value) if _LABEL_VALUE.fullmatch(value) else -1
        if number < 0 or number in names or not isinstance(name, str):
            raise ValueError(f"{rule}, each a whole number of its own, got {value[:80]!r}: {name!r:.80} in {file}")
        names[number] = name
    return names


def is_ct(root: Path) -> bool:
    """Return whether dataset.json says that all images are CT."""
    try:
        modality = read_json_object(root / "dataset.json").get("modality")
    except (OSError, ValueError):
        return False
    return isinstance(modality, dict) and {str(name).upper() for name in modality.values()} == {"CT"}


def compare_dataset_json(root: Path, expected: Mapping[int, str] | None, found: Found) -> None:
    """Compare a folder with its dataset.json, if there is one, and add to ``found`` where task or cases differ.

    Args:
        root: the folder.
        expected: names by label value of the data set; None: those of the file.
        found: content of the folder. Other label values are added as a problem, all other differences as doubts.
    """
    file = root / "dataset.json"
    if not file.is_file():
        return
    try:
        names, content = label_names(root), read_json_object(file)
    except (OSError, ValueError) as error:
        found.doubts.append(f"the folder cannot be compared with its dataset.json: {error}")
        return
    if expected is not None:
        _compare_labels(file, content.get("name"), names, expected, found)
    elif sorted(names) != list(range(len(names))):
        values = ", ".join(map(str, sorted(names)))
        found.problems.append(f"labels must be 0 to {len(names) - 1} without a gap, got {values} in {file}")
    named = {case_id_of(path) for path in _training_images(content)}
    missing = sorted(named - {case["case_id"] for case in found.cases})
    if missing:
        found.doubts.append(
            f"{file} names {len(named)} case(s) for training, usual is that all are there: "
            f"{len(missing)} are not, such as {', '.join(missing[:3])}"
        )


def _compare_labels(file: Path, name: Any, names: Mapping[int, str], expected: Mapping[int, str], found: Found) -> None:
    tables = [", ".join(f"{value} {text}" for value, text in sorted(table.items())) for table in (expected, names)]
    if set(names) != set(expected):
        found.problems.append(f"labels must be {tables[0]}, got {tables[1]} of the task {name!r:.80} in {file}")
    elif not _share_words(names, expected) or exchanged_names(names, expected):
        found.doubts.append(f"the labels of the task {name!r:.80} are {tables[1]} in {file}, usual are {tables[0]}")


def exchanged_names(names: Mapping[int, str], expected: Mapping[int, str]) -> list[tuple[int, int]]:
    """Find pairs of label values whose names fit better if they are exchanged.

    Args:
        names: names by label value.
        expected: names of the same values; they may be longer or have other words.

    Example:
        >>> exchanged_names({1: "Posterior", 2: "Anterior"}, {1: "anterior hippocampus", 2: "posterior hippocampus"})
        [(1, 2)]
        >>> exchanged_names({1: "liver", 2: "cancer"}, {1: "liver", 2: "liver tumour"})
        []
    """
    ours, theirs = _words(names), _words(expected)

    def fit(one: int, other: int) -> float:
        return len(ours[one] & theirs[other]) / len(ours[one] | theirs[other])

    pairs = itertools.combinations(sorted(value for value in ours.keys() & theirs.keys() if ours[value]), 2)
    return [(i, j) for i, j in pairs if fit(i, j) + fit(j, i) > fit(i, i) + fit(j, j)]


def _share_words(names: Mapping[int, str], expected: Mapping[int, str]) -> bool:
    """Return whether any name fits; words that all expected names have, as in left and right kidney, do not count."""
    theirs = _words(expected)
    common = set.intersection(*theirs.values()) if len(theirs) > 1 else set()
    if any(words <= common for words in theirs.values()):
        common = set()  # liver, liver tumour
    found = set().union(*_words(names).values()) & set().union(*theirs.values())
    return bool(found - common)


def _words(names: Mapping[int, str]) -> dict[int, set[str]]:
    """Return the words of each name but the background's, so that Anterior matches anterior hippocampus."""
    return {value: set(re.findall(r"[^\W_]+", name.lower())) for value, name in names.items() if value}


def _training_images(content: Mapping[str, Any]) -> list[str]:
    """Return the file names of the images that the table lists for training."""
    items = content.get("training")
    images = (
        [item.get("image") if isinstance(item, dict) else None for item in items] if isinstance(items, list) else []
    )
    return [Path(image).name for image in images if isinstance(image, str)]
