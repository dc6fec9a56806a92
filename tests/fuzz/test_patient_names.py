# SPDX-License-Identifier: Apache-2.0

"""What DICOM headers tell of a patient reaches no log, message, file or file name."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import pytest
from good_files import PATIENT, SLICES, dicom_slice
from monai.transforms import Compose, LoadImaged, RandFlipd, SaveImage

from hybridmim_components.data import find_volumes, inspect_volumes, make_dataset, pretraining_lists, read_volume

WORDS = (*PATIENT.split("^"), "19700101")


def write_series(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for index in range(SLICES):
        (folder / f"{index}.dcm").write_bytes(dicom_slice(index))
    return folder


def assert_unnamed(*texts: str) -> None:
    assert not [word for word in WORDS for text in texts if word in text]


@pytest.fixture
def scans(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Path:
    caplog.set_level(logging.DEBUG)
    for name in ("a", "b", "c"):
        write_series(tmp_path / "scans" / name)
    (tmp_path / "scans" / "b" / "1.dcm").write_bytes(dicom_slice(1)[:-20])
    damaged = dicom_slice(1).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0")
    (tmp_path / "scans" / "c" / "1.dcm").write_bytes(damaged)
    return tmp_path / "scans"


def test_reading_lists_and_errors_name_folders_alone(
    scans: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    assert WORDS[0].encode() in (scans / "a" / "0.dcm").read_bytes()
    found = find_volumes(scans)
    lists = pretraining_lists("msd_spleen", "", str(scans), val_fraction=0.4)
    cache = scans.parent / "volumes.json"
    with pytest.raises(ValueError, match=r"2 of 3 volume\(s\) cannot be used") as caught:
        inspect_volumes([{"image": path} for path in found], cache)
    assert f"{scans}/b" in str(caught.value) and "such as 1.dcm" in str(caught.value)
    inspect_volumes([{"image": path} for path in found], cache, skip_unreadable=True)
    chain = [caught.value]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    printed = capfd.readouterr()
    assert_unnamed(*map(str, chain), caplog.text, printed.out, printed.err, str(lists), cache.read_text())


def test_neither_the_cache_nor_a_saved_image_holds_or_bears_a_name(
    scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    series = str(scans / "a")
    transform = Compose([LoadImaged("image", ensure_channel_first=True), RandFlipd("image", prob=0.5)])
    item = make_dataset([{"image": series}], transform, "disk", tmp_path / "out" / "cache")[0]
    assert item["image"].shape == (1, 6, 5, SLICES)
    SaveImage(tmp_path / "out", output_postfix="seg", separate_folder=False, resample=False)(read_volume(series))
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) == 2
    printed = capfd.readouterr()
    assert_unnamed(caplog.text, printed.out, printed.err)
    for path in written:
        content = path.read_bytes()
        plain = gzip.decompress(content) if path.suffix == ".gz" else content
        assert_unnamed(str(path.relative_to(tmp_path)), plain.decode("latin-1"))
    assert [path.name for path in written if path.suffix == ".gz"] == ["a_seg.nii.gz"]


def test_an_item_that_a_transform_cannot_take_is_logged_without_its_header(
    scans: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("a bug")

    transform = Compose([LoadImaged("image", ensure_channel_first=True), broken])
    with pytest.raises(RuntimeError) as caught:
        make_dataset([{"image": str(scans / "a")}], transform, "none")[0]
    printed = capfd.readouterr()
    assert_unnamed(str(caught.value), caplog.text, printed.out, printed.err)
