# SPDX-License-Identifier: Apache-2.0

"""Archives that would write elsewhere, or more than they hold."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from hybridmim_components.data import archive as archive_module
from hybridmim_components.data.archive import unpack


def tar_of(*members: tarfile.TarInfo | str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            info.size = info.size or (4 if info.isreg() else 0)
            tar.addfile(info, io.BytesIO(b"evil" * 1000))
    return buffer.getvalue()


def special(kind: bytes, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo("Task/odd")
    info.type = kind
    for name, value in fields.items():
        setattr(info, name, value)
    return info


SPARSE = {
    "GNU.sparse.major": "0",
    "GNU.sparse.minor": "1",
    "GNU.sparse.name": "Task/odd",
    "GNU.sparse.size": str(2**50),
    "GNU.sparse.map": "0,512",
}
HOSTILE = {
    "parent": (tar_of("../evil"), "unsafe path of a member, got '../evil'"),
    "inner parent": (tar_of("Task/../../evil"), "unsafe path"),
    "absolute": (tar_of("/tmp/evil"), "unsafe path"),
    "control characters": (tar_of("Task/a\x1b[2J"), r"unsafe path of a member, got 'Task/a\\x1b"),
    "symbolic link": (
        tar_of(special(tarfile.SYMTYPE, linkname="/etc")),
        "got a link, device or sparse file 'Task/odd'",
    ),
    "hard link": (tar_of(special(tarfile.LNKTYPE, linkname="/etc/hostname")), "got a link"),
    "device": (tar_of(special(tarfile.CHRTYPE, devmajor=1, devminor=5)), "got a link, device"),
    "pipe": (tar_of(special(tarfile.FIFOTYPE)), "got a link, device"),
    "petabyte of holes": (tar_of(special(tarfile.REGTYPE, pax_headers=SPARSE, size=512)), "sparse file 'Task/odd'"),
    "gzip": (gzip.compress(tar_of("Task/a")), "an uncompressed tar file"),
    "cut": (
        tar_of(special(tarfile.REGTYPE, size=2000))[:1000],
        "must have at most the 1000 bytes of the file, got 2000",
    ),
    "long name": (tar_of("Task/" + "a" * 300), "File name too long"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_members_are_refused_and_nothing_lies_outside(tmp_path: Path, kind: str) -> None:
    content, message = HOSTILE[kind]
    path, folder = tmp_path / "Task.tar", tmp_path / "out"
    path.write_bytes(content)
    folder.mkdir()
    with pytest.raises((ValueError, OSError), match=f"cannot unpack {path}: .*{message}"):
        unpack(path, folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["Task.tar", "out"]
    assert not [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size]


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "Task.tar").write_bytes(tar_of("Task/a", "Task/b", "Task/c"))
    monkeypatch.setattr(archive_module, "MAX_MEMBERS", 2)
    with pytest.raises(ValueError, match="it must have at most 2 members"):
        unpack(tmp_path / "Task.tar", tmp_path / "out")
    monkeypatch.setattr(archive_module, "MAX_MEMBERS", 3)
    unpack(tmp_path / "Task.tar", tmp_path / "out")
    assert [(tmp_path / "out" / "Task" / name).read_bytes() for name in "abc"] == [b"evil"] * 3


def test_files_are_plain_whatever_the_archive_says_of_their_mode(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "Task.tar").write_bytes(tar_of(special(tarfile.REGTYPE, mode=0o7777)))
    unpack(tmp_path / "Task.tar", tmp_path / "out")
    assert not (tmp_path / "out" / "Task" / "odd").stat().st_mode & 0o7111
