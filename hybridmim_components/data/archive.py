# SPDX-License-Identifier: Apache-2.0

"""Unpacking of an untrusted tar file: only files and folders, only inside one folder, no larger than the archive."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath

__all__ = ["MAX_MEMBERS", "unpack"]

#: Most files and folders of an archive, far more than a data set of volumes has. Each one takes an inode.
MAX_MEMBERS = 100_000


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a plain tar file into an existing folder, after checking all of its members.

    Args:
        archive: uncompressed tar file, as MSD publishes them. What it unpacks to is never larger than the archive.
        folder: folder to unpack into.

    Raises:
        ValueError: when the archive is not a tar file or is damaged, has too many members, holds links, devices or
            sparse files, leads out of the folder, or claims more bytes than it has.
        OSError: when the archive cannot be read or a member cannot be written.
    """
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in _checked(tar, archive.stat().st_size):
                _write(tar, member, folder)
    except OSError as error:
        raise OSError(f"cannot unpack {archive}: {error}") from error
    except tarfile.ReadError as error:
        raise ValueError(f"cannot unpack {archive}: it must be an uncompressed tar file, {error}") from error
    # a hostile header makes tarfile raise more than its own errors
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"cannot unpack {archive}: {error or type(error).__name__}") from error


def _checked(tar: tarfile.TarFile, limit: int) -> list[tarfile.TarInfo]:
    members: list[tarfile.TarInfo] = []
    total = 0
    for member in tar:
        total += member.size
        _require_safe(member)
        if total > limit:
            raise ValueError(f"its members must have at most the {limit} bytes of the file, got {total}")
        if len(members) == MAX_MEMBERS:
            raise ValueError(f"it must have at most {MAX_MEMBERS} members")
        members.append(member)
    return members


def _require_safe(member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or not member.name.isprintable():
        raise ValueError(f"unsafe path of a member, got {member.name!r:.200}")
    if member.issparse() or not (member.isreg() or member.isdir()):
        raise ValueError(
            f"its members must be files and folders, got a link, device or sparse file {member.name!r:.200}"
        )
    if member.size < 0:
        raise ValueError(f"a member must have 0 bytes or more, got {member.size} for {member.name!r:.200}")


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    target = folder / member.name
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None  # since it is a regular file
    with source, target.open("wb") as file:
        shutil.copyfileobj(source, file)
