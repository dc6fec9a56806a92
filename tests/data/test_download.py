# SPDX-License-Identifier: Apache-2.0

"""The download of MSD's tasks, from a server on this machine that can misbehave."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import socket
import sys
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from monai.apps import DecathlonDataset

from hybridmim_components.data import download
from hybridmim_components.data.download import MSD_TASKS, download_msd

NAME = "Task09_Spleen"
Server = Any  # of conftest.py
PADDING = bytes(range(256)) * 800  # more than fits into the buffers of a socket's reader


def archive(**more: bytes) -> bytes:
    """MSD's layout with the files that macOS adds."""
    files = {
        f"./._{NAME}": b"macOS",
        f"{NAME}/dataset.json": json.dumps({"name": "Spleen"}).encode(),
        f"{NAME}/imagesTr/spleen_2.nii.gz": PADDING,
        f"{NAME}/imagesTr/._spleen_2.nii.gz": b"macOS",
        **more,
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def md5_of(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def server(http_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    monkeypatch.setattr(download, "_TIMEOUT", 5.0)
    monkeypatch.setenv("no_proxy", "*")
    http_server.content, http_server.name = archive(), f"{NAME}.tar"
    return http_server


def fetch(server: Server, root: Path, md5: str | None = None) -> Path:
    return download_msd(NAME, root, server.url, md5 or md5_of(server.content))


def assert_complete(folder: Path, root: Path) -> None:
    assert folder == root / NAME
    assert (folder / "imagesTr" / "spleen_2.nii.gz").read_bytes() == PADDING
    assert sorted(p.name for p in root.iterdir()) == [NAME]


def part_of(root: Path) -> Path:
    return root / f"{NAME}.tar.part"


def test_a_task_is_downloaded_once(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "not" / "there"
    assert_complete(fetch(server, root), root)
    assert server.asked == [None]
    with caplog.at_level("INFO"):
        assert fetch(server, root, md5="other") == root / NAME
    assert f"{root / NAME} is there already" in caplog.text
    assert server.asked == [None]


def test_a_cut_connection_is_continued_with_what_came(server: Server, tmp_path: Path) -> None:
    server.cuts = [5000, 100_000, 7]
    assert_complete(fetch(server, tmp_path), tmp_path)
    assert server.asked == [None, "bytes=5000-", "bytes=105000-", "bytes=105007-"]


def test_a_reset_connection_is_continued(server: Server, tmp_path: Path) -> None:
    server.resets, server.cuts = True, [50_000]
    assert_complete(fetch(server, tmp_path), tmp_path)
    assert server.asked[0] is None
    assert all(asked and asked.startswith("bytes=") for asked in server.asked[1:])


def test_a_later_call_continues_the_partial_file(server: Server, tmp_path: Path) -> None:
    server.cuts = [9000] + [0] * 50
    with pytest.raises(ConnectionError, match="5 times without progress; run it again .* 9000 bytes in .*tar.part"):
        fetch(server, tmp_path)
    assert part_of(tmp_path).read_bytes() == server.content[:9000]
    assert len(server.asked) == 6
    server.cuts, server.asked = [], []
    assert_complete(fetch(server, tmp_path), tmp_path)
    assert server.asked == ["bytes=9000-"]


def test_progress_resets_the_count_of_failures(server: Server, tmp_path: Path) -> None:
    server.cuts = [1000] * 20
    assert_complete(fetch(server, tmp_path), tmp_path)
    assert len(server.asked) == 21


def test_a_server_without_ranges_starts_from_zero(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cuts = False, [9000]
    assert_complete(fetch(server, tmp_path), tmp_path)
    assert server.asked == [None, "bytes=9000-"]
    shutil.rmtree(tmp_path / NAME)
    server.cuts = [9000] * 50
    with pytest.raises(ConnectionError, match="without progress"):
        fetch(server, tmp_path)


def test_a_server_that_sends_another_range_is_not_believed(server: Server, tmp_path: Path) -> None:
    part_of(tmp_path).write_bytes(server.content[:9000])
    server.shift = 1
    assert_complete(fetch(server, tmp_path), tmp_path)
    assert server.asked == ["bytes=9000-", None]


@pytest.mark.parametrize("lengths", [True, False])
def test_a_complete_partial_file_is_used(server: Server, tmp_path: Path, lengths: bool) -> None:
    part_of(tmp_path).write_bytes(server.content)
    server.lengths = lengths
    assert_complete(fetch(server, tmp_path), tmp_path)
    assert server.asked == [f"bytes={len(server.content)}-"]


def test_a_partial_file_that_is_too_long_is_dropped(server: Server, tmp_path: Path) -> None:
    part_of(tmp_path).write_bytes(server.content + b"x")
    assert_complete(fetch(server, tmp_path), tmp_path)
    assert server.asked[1:] == [None]


def test_a_server_may_keep_the_length_to_itself(server: Server, tmp_path: Path) -> None:
    server.lengths = False
    assert_complete(fetch(server, tmp_path), tmp_path)


def test_errors_that_may_pass_are_tried_again_and_others_are_not(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    assert_complete(fetch(server, tmp_path), tmp_path)
    shutil.rmtree(tmp_path / NAME)
    server.statuses, server.asked = [404], []
    with pytest.raises(OSError, match=f"cannot download {server.url}: HTTP Error 404"):
        fetch(server, tmp_path)
    assert len(server.asked) == 1


def test_a_server_that_is_silent_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(ConnectionError, match="timed out"):
            download_msd(NAME, tmp_path, url, "0")


def test_a_wrong_checksum_is_named_and_the_file_put_aside(server: Server, tmp_path: Path) -> None:
    expected = md5_of(server.content)
    server.content = server.content[:-1] + b"!"
    found = md5_of(server.content)
    with pytest.raises(ValueError, match=f"md5 of .*{NAME}.tar.part must be {expected}, got {found}.*corrupt"):
        fetch(server, tmp_path, expected)
    assert [p.name for p in tmp_path.iterdir()] == [f"{NAME}.tar.corrupt"]
    server.content = archive()
    assert fetch(server, tmp_path, expected.upper()).is_dir()
    assert server.asked == [None, None]


def test_without_md5_the_published_checksum_holds(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"must be {DecathlonDataset.md5[NAME]}"):
        download_msd(NAME, tmp_path, server.url)


def test_an_archive_is_verified_by_sha256_where_that_is_given(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = hashlib.sha256(server.content).hexdigest()
    with caplog.at_level("INFO"):
        assert_complete(download_msd(NAME, tmp_path, server.url, sha256=found.upper()), tmp_path)
        shutil.rmtree(tmp_path / NAME)
        fetch(server, tmp_path)
    # who verified by md5 is told what to give the next time
    assert f"verified by sha256; its sha256 is {found}" in caplog.text
    assert f"verified by md5; its sha256 is {found}" in caplog.text
    shutil.rmtree(tmp_path / NAME)
    with pytest.raises(ValueError, match=f"sha256 of .* must be {'0' * 64}, got {found}"):
        download_msd(NAME, tmp_path, server.url, md5_of(server.content), "0" * 64)
    with pytest.raises(ValueError, match="md5 of .* must be 1, got "):
        download_msd(NAME, tmp_path, server.url, "1", found)
    assert not (tmp_path / NAME).exists()


def test_members_that_lead_out_of_the_folder_are_refused(server: Server, tmp_path: Path) -> None:
    root = tmp_path / "deep" / "er"
    for evil in ("../evil", f"{NAME}/../../evil", str(tmp_path / "evil")):
        server.content = archive(**{evil: b"evil"})
        with pytest.raises(ValueError, match="[Uu]nsafe path"):
            fetch(server, root)
        assert not list(tmp_path.rglob("evil"))
        assert [p.name for p in root.iterdir()] == [f"{NAME}.tar"]
        (root / f"{NAME}.tar").unlink()


@pytest.mark.parametrize(
    ("content", "message"), [(b"<html>log in</html>", "cannot unpack"), (archive()[:1500], "cannot unpack|must hold")]
)
def test_what_is_no_archive_of_the_task_is_named(server: Server, tmp_path: Path, content: bytes, message: str) -> None:
    server.content = content
    with pytest.raises(ValueError, match=message):
        fetch(server, tmp_path)
    assert not (tmp_path / NAME).exists()


def test_an_archive_of_another_task_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="an archive of Task02_Heart must hold Task02_Heart/dataset.json"):
        download_msd("heart", tmp_path, server.url, md5_of(server.content))
    assert not (tmp_path / "Task02_Heart").exists()


def test_an_interrupted_extraction_is_not_taken_for_a_data_set(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, folder: Path) -> None:
        (folder / NAME).mkdir(parents=True)
        (folder / NAME / "dataset.json").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "unpack", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(server, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [f"{NAME}.tar"]
    # what a kill leaves behind
    (tmp_path / f".{NAME}.extracting" / NAME).mkdir(parents=True)
    folder = fetch(server, tmp_path)
    assert (folder / "imagesTr" / "spleen_2.nii.gz").read_bytes() == PADDING
    assert sorted(p.name for p in tmp_path.iterdir()) == [NAME, f"{NAME}.tar"]
    assert server.asked == [None]


def test_an_archive_that_the_user_put_there_is_used_and_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.tar").write_bytes(server.content)
    assert (fetch(server, tmp_path) / "dataset.json").is_file()
    assert server.asked == []
    assert (tmp_path / f"{NAME}.tar").is_file()


def test_a_folder_without_dataset_json_is_in_the_way(server: Server, tmp_path: Path) -> None:
    (tmp_path / NAME / "imagesTr").mkdir(parents=True)
    with pytest.raises(FileExistsError, match=f"{tmp_path / NAME} is in the way: .* no dataset.json"):
        fetch(server, tmp_path)
    assert server.asked == []


class Usage(NamedTuple):
    free: int


@pytest.mark.parametrize("have", [0, 9000])
def test_a_disk_that_is_too_small_is_found_before_the_download(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, have: int
) -> None:
    need = 2 * len(server.content) - have
    part_of(tmp_path).write_bytes(server.content[:have])
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: Usage(need - 1))
        with pytest.raises(OSError, match=r"output_dir must have .* GB of free disk .*, got .* GB in "):
            fetch(server, tmp_path)
    assert part_of(tmp_path).stat().st_size == have
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(need))
    assert_complete(fetch(server, tmp_path), tmp_path)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x.tar", "/data/x.tar", "data:,x"])
def test_other_addresses_than_http_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match=f"url must be http or https, got {url}"):
        download_msd(NAME, tmp_path, url)
    assert not list(tmp_path.iterdir())


def test_redirections_are_followed_to_http_only(server: Server, tmp_path: Path) -> None:
    server.location = "ftp://127.0.0.1/x.tar"
    with pytest.raises(ValueError, match="url must be http or https, got ftp://"):
        fetch(server, tmp_path)
    server.location = "file:///etc/passwd"
    with pytest.raises(OSError, match=f"cannot download {server.url}"):
        fetch(server, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_bar_is_shown_on_a_terminal_only(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(fetch(server, tmp_path))
    assert not capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fetch(server, tmp_path)
    assert f"{NAME}.tar" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("Task09_Spleen", "Task09_Spleen"),
        ("task09_spleen", "Task09_Spleen"),
        ("msd_spleen", "Task09_Spleen"),
        ("SPLEEN", "Task09_Spleen"),
        ("msd_brain_tumour", "Task01_BrainTumour"),
        ("HepaticVessel", "Task08_HepaticVessel"),
    ],
)
def test_tasks_have_several_names(tmp_path: Path, task: str, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "dataset.json").touch()
    assert download_msd(task, tmp_path) == tmp_path / name


@pytest.mark.parametrize("task", ["kidney", "", "Task09", "msd"])
def test_unknown_tasks_are_refused_with_the_names(tmp_path: Path, task: str) -> None:
    with pytest.raises(ValueError, match=f"{', '.join(MSD_TASKS)}, .*, got '{task}'"):
        download_msd(task, tmp_path)


def test_all_ten_tasks_have_an_address_and_a_checksum() -> None:
    assert len(MSD_TASKS) == 10
    assert all(DecathlonDataset.resource[t].startswith("https://") and DecathlonDataset.md5[t] for t in MSD_TASKS)
