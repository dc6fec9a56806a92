# SPDX-License-Identifier: Apache-2.0

"""Folders of any names and JSON files of any content: cases inside the folder, or a clear error."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from good_files import GOOD
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmim_components.data import find_volumes, read_volume
from hybridmim_components.data.datasets import find_cases, label_names
from hybridmim_components.system.files import read_json_object
from hybridmim_components.weights import read_recipe

LETTERS = st.characters(exclude_characters="/\0", exclude_categories=("Cs",))
STEMS = st.one_of(
    st.text(LETTERS, min_size=1, max_size=6),
    st.sampled_from(("img0001", "label0001", "..", "B_1_flair", "B_1_seg", "-rf", "~", "$HOME", "a b", "*", "[a]")),
)
SUFFIXES = st.sampled_from((".nii.gz", ".nii", ".NII", "", ".nrrd", ".mhd"))
NAMES = st.builds("{}{}".format, STEMS, SUFFIXES).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)


@contextmanager
def folder_of(files: dict[str, list[str]]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as temporary:
        for parent, names in files.items():
            (Path(temporary) / parent).mkdir(parents=True, exist_ok=True)
            for name in names:
                (Path(temporary) / parent / name).touch()
        yield Path(temporary)


@given(st.sampled_from(("msd_spleen", "btcv")), st.lists(NAMES, max_size=4, unique=True), st.lists(NAMES, max_size=4))
def test_cases_lie_in_the_folder_and_bear_the_name_of_their_image(
    dataset: str, images: list[str], more: list[str]
) -> None:
    with folder_of({"imagesTr": images, "labelsTr": [*images, *more]}) as root:
        try:
            cases = find_cases(dataset, root).cases
        except (ValueError, FileNotFoundError) as error:
            assert str(root) in str(error)
            return
        assert len({case["case_id"] for case in cases}) == len(cases)
        for case in cases:
            assert Path(case["image"]).name.startswith(case["case_id"])
            assert Path(case["image"]).parent == root / "imagesTr" and Path(case["label"]).parent == root / "labelsTr"
            assert "/" not in case["case_id"] and not any(c in case["case_id"] for c in "\n\r\x1b")


@given(st.text(LETTERS, min_size=1, max_size=6).filter(lambda name: name not in (".", "..")))
def test_patients_of_any_name_are_found_or_refused(case_id: str) -> None:
    names = [f"{case_id}_{part}.nii.gz" for part in ("flair", "t1", "t1ce", "t2", "seg")]
    with folder_of({case_id: names}) as root:
        try:
            found = find_cases("brats2020", root)
        except (ValueError, FileNotFoundError) as error:
            assert str(root) in str(error)
            return
        assert [case["case_id"] for case in found.cases] == [case_id] and not found.problems


@given(st.lists(NAMES, max_size=4), st.sampled_from((None, ["flair"], ["t1", "T2w"])), st.booleans())
def test_whatever_lies_in_a_folder_is_listed_or_refused(
    names: list[str], modalities: list[str] | None, skip: bool
) -> None:
    with folder_of({"a": names, "a/b": names}) as root:
        try:
            found = find_volumes(root, modalities, skip)
        except (ValueError, FileNotFoundError) as error:
            assert str(root) in str(error)
            return
        paths = [path for volume in found for path in ([volume] if isinstance(volume, str) else volume)]
        assert all(Path(path).is_file() and Path(path).is_relative_to(root.resolve()) for path in paths)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(("labels", "volumes", "0", "01", "x")), inner, max_size=3),
    ),
    max_leaves=8,
)


@given(st.one_of(JSON.map(json.dumps).map(str.encode), st.binary(max_size=60)))
def test_json_of_any_content_is_read_or_refused_by_name(content: bytes) -> None:
    with folder_of({".": []}) as root:
        for name in ("dataset.json", "model.json"):
            (root / name).write_bytes(content)
        try:
            names = label_names("msd_other", root)
            assert names and all(isinstance(k, int) and k >= 0 and isinstance(v, str) for k, v in names.items())
        except ValueError as error:
            assert str(root / "dataset.json") in str(error)
        try:
            assert isinstance(read_recipe(root / "model.pt").get("volumes", []), list)
        except ValueError as error:
            assert str(root / "model.json") in str(error)


@settings(max_examples=60)
@given(
    st.sampled_from((0, 40, 42, 44, 46, 48, 70, 72, 76, 80, 108, 112, 116, 252, 254, 256, 280, 344, 348)),
    st.binary(min_size=1, max_size=16),
)
def test_a_header_of_any_content_is_read_or_refused_by_name(offset: int, patch: bytes) -> None:
    good = GOOD["nii"]()
    with folder_of({".": []}) as root:
        path = root / "a.nii"
        path.write_bytes(good[:offset] + patch + good[offset + len(patch) :])
        try:
            volume = read_volume(str(path))
        except ValueError as error:
            assert str(path) in str(error)
            return
        assert volume.ndim == 4 and bool(volume.isfinite().all())


def test_a_json_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(1 << 40)  # a hole: it takes no disk
    with pytest.raises(ValueError, match="it must have at most 64 MiB"):
        read_json_object(tmp_path / "large.json")


def test_the_patch_of_a_header_meets_what_it_aims_at() -> None:
    assert struct.unpack_from("<8h", GOOD["nii"](), 40)[:4] == (3, 6, 5, 3)
