# SPDX-License-Identifier: Apache-2.0

"""Search for NIfTI files by case id, and pairing of images with labels."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Case", "Found", "case_id_of", "find_nifti", "is_plain_name", "require_folders", "require_plain_name"]

#: ``case_id``, ``image`` (a path, or one path per modality) and ``label`` (a path).
Case = dict[str, Any]
_SUFFIX = re.compile(r"\.(?:nii|NII)(?:\.(?:gz|GZ))?$")  # nibabel reads no other mixture


@dataclass
class Found:
    """Content of a folder: its complete cases, a text for each problem with the others, and what is unusual."""

    cases: list[Case] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def case_id_of(path: str | Path) -> str:
    """Return the name of a NIfTI file without its suffix."""
    return _SUFFIX.sub("", Path(path).name)


def is_plain_name(name: str) -> bool:
    """Return whether a name fits into logs, tables and UTF-8 files: no control characters, no undecodable bytes."""
    return not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name)


def require_plain_name(path: Path) -> None:
    """Refuse a file or folder whose name would break a line of a log or table.

    Raises:
        ValueError: when the name is refused; shows it with its characters escaped.
    """
    if not is_plain_name(path.name):
        raise ValueError(f"names must be UTF-8 without control characters, got {path.name!r} in {path.parent}")


def find_nifti(folder: Path) -> dict[str, Path]:
    """Find the NIfTI files of a folder by case id. Hidden files are skipped, such as macOS's ``._*`` in MSD's archives.

    Raises:
        FileNotFoundError: when the folder does not exist.
        ValueError: when two files have the same case id, or a name is not plain text.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not _is_nifti(path):
            continue
        require_plain_name(path)
        case_id = case_id_of(path)
        if case_id in found:
            raise ValueError(f"two files of case {case_id} in {folder}: {found[case_id].name} and {path.name}")
        found[case_id] = path
    return found


def _is_nifti(path: Path) -> bool:
    return bool(_SUFFIX.search(path.name)) and not path.name.startswith(".")


def require_folders(root: Path, *names: str) -> None:
    """Refuse a folder that lacks a part of its layout, and suggest a folder one or two levels deeper that has it.

    Raises:
        FileNotFoundError: when a part is missing; names it.
    """
    for name in names:
        if not (root / name).is_dir():
            inner = next((p.parent for p in sorted([*root.glob(f"*/{name}"), *root.glob(f"*/*/{name}")])), None)
            hint = f"; did you mean {inner}?" if inner else ""
            raise FileNotFoundError(f"dataset_dir must hold {' and '.join(names)}, {name} is not in {root}{hint}")


def pair(images: Mapping[str, Path], labels: Mapping[str, Path], image_dir: Path, label_dir: Path) -> Found:
    """Pair images with labels that have the same key, whatever their order.

    Raises:
        FileNotFoundError: when there is no image at all.
    """
    if not images:
        raise FileNotFoundError(f"no .nii.gz or .nii file in {image_dir}")
    found = Found()
    for key in sorted(images):
        if key in labels:
            case = {"case_id": case_id_of(images[key]), "image": str(images[key]), "label": str(labels[key])}
            found.cases.append(case)
    found.problems += _missing(images, labels, f"no label in {label_dir} for")
    found.problems += _missing(labels, images, f"no image in {image_dir} for the label of")
    for folder in (image_dir, label_dir):
        deeper = sorted(str(path.relative_to(folder)) for path in folder.glob("*/*") if _is_nifti(path))
        if deeper:
            found.doubts.append(
                f"{len(deeper)} NIfTI file(s) in folders below {folder} are not read, such as {deeper[0]}: "
                "usual is that all lie in the folder itself"
            )
    return found


def _missing(have: Mapping[str, Path], other: Mapping[str, Path], text: str) -> Sequence[str]:
    lonely = [case_id_of(have[key]) for key in sorted(have.keys() - other.keys())]
    return [f"{text} {', '.join(lonely)}"] if lonely else []
