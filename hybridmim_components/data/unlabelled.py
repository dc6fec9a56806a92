# SPDX-License-Identifier: Apache-2.0

"""Search for unlabelled volumes: NIfTI, MetaImage, NRRD, DICOM series, and MRI with one file per modality."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from hybridmim_components.data.dicom import is_dicom
from hybridmim_components.data.layouts import is_plain_name

__all__ = ["find_series", "find_volumes"]

logger = logging.getLogger(__name__)

_SUFFIXES = (".nii.gz", ".nii", ".mhd", ".mha", ".nrrd")
# the last five are names from BraTS 2023 and BIDS
_MODALITIES = ("flair", "t1", "t1ce", "t2", "t1c", "t1n", "t2f", "t1w", "t2w")

_ANYWHERE = r"label(?:s|map|maps|str|sts|sva)?|[a-z]*masks?|msks?|ground ?truths?|annotations?"
# only at an end, since published image folders have these words in the middle: COVID-19-CT-Seg_20cases
_AT_AN_END = r"segs?|segms?|segmentations?|gts?|truths?"
_NOT = r"(?<!\bno )(?<!\bwith )(?<!\bwithout )(?<!\band )"
_IRCAD = "^labelled dicom$"  # the labels of 3D-IRCADb; other folders named 'labelled' hold images
_LABEL_FOLDER = re.compile(rf"{_IRCAD}|{_NOT}\b(?:{_ANYWHERE})\b|^[\d ]*(?:{_AT_AN_END})\b|\b(?:{_AT_AN_END})[\d ]*$")
_LABEL_FILE = re.compile(rf"{_NOT}\b(?:(?:{_ANYWHERE})(?: \d)?|{_AT_AN_END})$|^(?:{_ANYWHERE}|{_AT_AN_END}) \d+$")
_WORD_BOUNDARY = re.compile(
    r"[\W_]+|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=\d)(?=[^\W\d_])|(?<=[^\W\d_])(?=\d)"
)


def find_volumes(
    folders: str | Path | Sequence[str | Path], modalities: Sequence[str] | None = None, skip_unreadable: bool = False
) -> list[str | list[str]]:
    """Find every volume below the given folders.

    A file ending in .nii, .nii.gz, .mhd, .mha or .nrrd is a volume. A folder with DICOM files is one DICOM series.
    DICOM files have the suffix .dcm or the letters DICM after 128 bytes.

    Hidden files and folders are skipped, and so are label maps, which are recognised by words in their names. These are
    folders such as labelsTr, TrainingMask, seg-lungs-LUNA16 or ground_truth, and files such as case_seg.nii.gz,
    case-label.nrrd or segmentation-3.nii. A folder that the caller names is never skipped. The log counts what is
    skipped as a label map.

    Args:
        folders: one folder or several.
        modalities: for MRI with one file per modality, such as ``["flair", "t1ce"]``. The files ``<case>_<modality>``
            of a folder form one volume, files of other modalities are ignored, and any other file is a volume of
            several channels. None: every file is a volume.
        skip_unreadable: log incomplete cases and leave them out, instead of raising.

    Returns:
        Sorted absolute paths of files and of folders of DICOM series, without repeats. With ``modalities``, a case with
        one file per modality is a list of paths in the order of ``modalities``.

    Raises:
        FileNotFoundError: when a folder does not exist or holds no volume.
        ValueError: when cases lack one of ``modalities``, or a path is not plain text.

    Example:
        >>> for name in ("ct.nii.gz", "ct_seg.nii.gz", "labels/ct.nii.gz", "mr_t1ce.nii", "mr_flair.nii"):
        ...     Path("scans", name).parent.mkdir(parents=True, exist_ok=True)
        ...     Path("scans", name).touch()
        >>> [Path(file).name for file in find_volumes("scans")]  # no label map
        ['ct.nii.gz', 'mr_flair.nii', 'mr_t1ce.nii']
        >>> ct, mr = find_volumes("scans", modalities=["t1ce", "flair"])
        >>> [Path(file).name for file in mr]
        ['mr_t1ce.nii', 'mr_flair.nii']
    """
    wanted = None if modalities is None else _checked(modalities)
    files: set[Path] = set()
    series: set[Path] = set()
    for folder in [folders] if isinstance(folders, (str, Path)) else folders:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"unlabelled_dirs must hold existing folders, got {folder}")
        found, found_series, passed_over = _walk(Path(folder))
        if not found and not found_series:
            raise FileNotFoundError(_nothing_below(folder, passed_over))
        files |= found
        series |= found_series
    single, cases = (files, []) if wanted is None else _by_case(files, wanted, skip_unreadable)
    # a set, since a link and its target are one volume
    paths = list({str(path.resolve()) for path in single | series})
    return sorted(
        _with_plain_names([*paths, *cases], skip_unreadable),
        key=lambda volume: [volume] if isinstance(volume, str) else volume,
    )


def find_series(folder: str | Path) -> list[str]:
    """Return the folders of DICOM series below a folder, the folder itself among them, sorted; links are kept.

    Hidden folders and those of label maps are skipped as in :func:`find_volumes`.

    Raises:
        ValueError: when a path is not plain text.
    """
    found: list[str | list[str]] = [*sorted(str(path) for path in _walk(Path(folder))[1])]
    return [str(path) for path in _with_plain_names(found, skip_unreadable=False)]


def _with_plain_names(volumes: list[str | list[str]], skip_unreadable: bool) -> list[str | list[str]]:
    """Refuse, or leave out, volumes whose paths would break a line of the log."""
    odd = [volume for volume in volumes if not is_plain_name("".join(volume))]
    if odd:
        text = f"names must be UTF-8 without control characters, got {odd}"
        if not skip_unreadable:
            raise ValueError(text)
        logger.warning("Skipped, since skip_unreadable is set: %s", text)
    return [volume for volume in volumes if volume not in odd]


def _checked(modalities: Sequence[str]) -> list[str]:
    names = [str(name).lower() for name in modalities]
    if isinstance(modalities, str) or not names or len(set(names)) < len(names):
        raise ValueError(f"modalities must be a list of different names, such as ['flair', 't1ce'], got {modalities!r}")
    return names


def _nothing_below(folder: str | Path, passed_over: int) -> str:
    if passed_over:
        return (
            f"no volume below {folder}: all {passed_over} file(s) were passed over as label maps, by their names or "
            "their folders'; if a folder holds images nevertheless, name that folder itself in unlabelled_dirs"
        )
    return f"no volume below {folder}: expected {', '.join(_SUFFIXES)} files, or the files of a DICOM series"


def _walk(folder: Path) -> tuple[set[Path], set[Path], int]:
    """Return files of volumes, folders of DICOM series, and the number of files that were skipped."""
    found: set[Path] = set()
    series: set[Path] = set()
    passed_over = 0
    visited: set[str] = set()
    for parent, directories, names in os.walk(folder, followlinks=True):
        if os.path.realpath(parent) in visited:  # a link to a folder above would be followed forever
            directories.clear()
            continue
        visited.add(os.path.realpath(parent))
        visible = sorted(d for d in directories if not d.startswith("."))
        directories[:] = [d for d in visible if not _LABEL_FOLDER.search(_words(d))]
        for name in sorted(set(visible) - set(directories)):
            passed_over += _pass_over(Path(parent, name), _count(Path(parent, name)), "the folder's name")
        volumes = [n for n in names if _is_volume(n)]
        images = {Path(parent, n) for n in volumes if not _LABEL_FILE.search(_words(_stem(n)))}
        passed_over += _pass_over(Path(parent), len(volumes) - len(images), "the files' names")
        found |= images
        if any(not _is_volume(n) and is_dicom(Path(parent, n)) for n in names):
            series.add(Path(parent))
    return found, series, passed_over


def _words(name: str) -> str:
    """Split a name into words in lower case: 'TrainingMask' to 'training mask', 'LUNA16' to 'luna 16'."""
    return _WORD_BOUNDARY.sub(" ", name).lower().strip()


def _pass_over(folder: Path, count: int, reason: str) -> int:
    if count:
        logger.info("Skipped %d file(s) in %s, which are label maps by %s", count, folder, reason)
    return count


def _count(folder: Path) -> int:
    files = [Path(parent, n) for parent, _, names in os.walk(folder, followlinks=True) for n in names]
    return sum(_is_volume(file.name) or is_dicom(file) for file in files)


def _is_volume(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")


def _stem(name: str) -> str:
    return next(name[: -len(suffix)] for suffix in _SUFFIXES if name.lower().endswith(suffix))


def _by_case(
    files: Iterable[Path], modalities: Sequence[str], skip_unreadable: bool
) -> tuple[set[Path], list[list[str]]]:
    """Return the files that are volumes by themselves, and the files of each case with one file per modality."""
    known = "|".join(re.escape(name) for name in {*_MODALITIES, *modalities})
    pattern = re.compile(rf"(?:(?P<case>.*)[_-])?(?P<modality>{known})", re.IGNORECASE)
    single: set[Path] = set()
    cases: dict[Path, dict[str, Path]] = defaultdict(dict)
    faults = []
    for path in sorted(files):
        match = pattern.fullmatch(_stem(path.name))
        if match is None:
            single.add(path)
            continue
        case = cases[path.parent / (match["case"] or "")]
        other = case.setdefault(match["modality"].lower(), path)
        if other != path:
            faults.append(f"{path.parent}: {other.name} and {path.name} are one modality of one case")
    for name, case in sorted(cases.items()):
        missing = [m for m in modalities if m not in case]
        if missing:
            folder = next(iter(case.values())).parent
            faults.append(f"{folder}: {'the case' if folder == name else name.name} lacks {', '.join(missing)}")
    if faults:
        text = f"modalities must be one file each in every case, got {list(modalities)} and {len(faults)} fault(s):\n  "
        if not skip_unreadable:
            raise ValueError(text + "\n  ".join(faults))
        logger.warning("Skipped, since skip_unreadable is set: %s", text + "\n  ".join(faults))
    complete = [case for case in cases.values() if all(m in case for m in modalities)]
    found = {tuple(str(case[m].resolve()) for m in modalities) for case in complete}
    return single, [list(paths) for paths in found]
