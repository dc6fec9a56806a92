# SPDX-License-Identifier: Apache-2.0

"""Resumable download of a task of the Medical Segmentation Decathlon."""

from __future__ import annotations

import hashlib
import http
import http.client
import logging
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from monai.apps import DecathlonDataset
from tqdm import tqdm

from hybridmim_components.data.archive import unpack

__all__ = ["MSD_TASKS", "download_msd"]

logger = logging.getLogger(__name__)

MSD_TASKS = tuple(DecathlonDataset.resource)
_ATTEMPTS = 5  # in a row without progress
_PAUSE = 1.0  # seconds before the next attempt, doubled with each one without progress
_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 20
_PASSING = (408, 429, 500, 502, 503, 504)


class _BrokenOffError(Exception):
    """Failure of the connection or the server that may be temporary."""


def download_msd(
    task: str, output_dir: str | Path, url: str | None = None, md5: str | None = None, sha256: str | None = None
) -> Path:
    """Download and unpack a task of the Medical Segmentation Decathlon, http://medicaldecathlon.com.

    A second call continues an interrupted download, whereas MONAI's ``download_url`` starts from zero each time. The
    task's folder appears only when it is complete, so that any program that finds it may use it. Only one call at a
    time may write to ``output_dir``.

    Args:
        task: such as ``"Task09_Spleen"``, ``"msd_spleen"`` or ``"spleen"``.
        output_dir: folder in which the folder ``TaskXX_Name`` is created. If it holds the archive ``TaskXX_Name.tar``,
            that archive is used.
        url: http or https address of the archive; None: MONAI's, which is the one of MSD's publishers on AWS.
        md5: checksum of the archive; None: MONAI's, so that a mirror must serve the same file. MSD's publishers give no
            other checksum.
        sha256: checksum that is checked instead of MONAI's, or together with ``md5`` if both are given. The log shows
            the sha256 of each archive, for the next time.

    Returns:
        The task's folder. If it exists already, nothing is done.

    Raises:
        ValueError: when the task is unknown, ``url`` is not http(s), or the archive is damaged, unsafe or another one.
        OSError: when the server refuses, the connection keeps failing, or the disk is too small.
    """
    name = _task_name(task)
    source = url or DecathlonDataset.resource[name]
    _require_http(source)
    root = Path(output_dir)
    folder = root / name
    if folder.exists():
        _require_dataset(folder)
        logger.info("%s is there already: nothing to download", folder)
        return folder
    root.mkdir(parents=True, exist_ok=True)
    archive, part = root / f"{name}.tar", root / f"{name}.tar.part"
    published = {} if sha256 else {"md5": DecathlonDataset.md5[name]}
    given = {algorithm: value for algorithm, value in (("md5", md5), ("sha256", sha256)) if value}
    expected = {algorithm: value.lower() for algorithm, value in {**published, **given}.items()}
    downloaded = not archive.exists()
    if downloaded:
        _download(source, part)
        _verify(part, expected)
        os.replace(part, archive)
    else:
        _verify(archive, expected)
        _require_space(root, archive.stat().st_size)
    _extract(archive, folder)
    if downloaded:
        archive.unlink()
    return folder


def _task_name(task: str) -> str:
    wanted = _letters(task).removeprefix("msd")
    for name in MSD_TASKS:
        if wanted in (_letters(name), _letters(name.partition("_")[2])):
            return name
    raise ValueError(
        f"task must be one of {', '.join(MSD_TASKS)}, or a name such as msd_spleen or spleen, got {task!r}"
    )


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


def _require_http(url: str) -> None:
    if urlsplit(url).scheme.lower() not in ("http", "https"):
        raise ValueError(f"url must be http or https, got {url}")


def _require_dataset(folder: Path) -> None:
    if not (folder / "dataset.json").is_file():
        raise FileExistsError(f"{folder} is in the way: it is no complete task, it has no dataset.json; move it away")


def _require_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(
            f"output_dir must have {size / 1e9:.1f} GB of free disk for the archive and what it unpacks to, "
            f"got {free / 1e9:.1f} GB in {folder}"
        )


def _download(url: str, part: Path) -> None:
    """Download a file to ``part`` and continue what is there. Gives up after several attempts without progress."""
    most, failures = _size(part), 0
    while True:
        try:
            _fetch_rest(url, part)
            return
        except _BrokenOffError as error:
            failures = 0 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if failures >= _ATTEMPTS:
                raise ConnectionError(
                    f"cannot download {url}: {error}, {failures} times without progress; "
                    f"run it again to go on after the {_size(part)} bytes in {part}"
                ) from error
            pause = _PAUSE * 2**failures
            logger.info("Download broke off after %d bytes (%s): again in %g s", _size(part), error, pause)
            time.sleep(pause)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


class _HTTPOnly(urllib.request.HTTPRedirectHandler):
    """Redirect handler that refuses ftp, which urllib would follow."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        _require_http(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch_rest(url: str, part: Path) -> None:
    """Make one request for the bytes that ``part`` lacks."""
    have = _size(part)
    response = _open(url, part)
    if response is None:
        return
    with response:
        start, total = _extent(response)
        if start not in (0, have):
            part.unlink(missing_ok=True)
            raise _BrokenOffError(f"the server sent bytes from {start} when asked for those from {have}")
        if total is not None:
            # twice the size, since plain tar of compressed images unpacks to as much again
            _require_space(part.parent, 2 * total - have)
        logger.info("Downloading %s from byte %d of %s", url, start, "an unknown number" if total is None else total)
        _copy(response, part, start, total)


def _open(url: str, part: Path) -> http.client.HTTPResponse | None:
    """Request what ``part`` lacks. Returns None if the server says that nothing is left."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        return urllib.request.build_opener(_HTTPOnly).open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            _require_not_longer(part, error.headers.get("Content-Range", ""))
            return None
        if error.code in _PASSING:
            raise _BrokenOffError(str(error)) from error
        raise OSError(f"cannot download {url}: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOffError(str(error) or type(error).__name__) from error


def _require_not_longer(part: Path, content_range: str) -> None:
    # if the server does not tell the length, the checksum decides
    whole = re.fullmatch(r"bytes \*/(\d+)", content_range)
    if whole and _size(part) > int(whole[1]):
        part.unlink()
        raise _BrokenOffError(f"{part} was longer than the {whole[1]} bytes of the file")


def _extent(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Return the first byte of a response and the length of the whole file. -1 stands for an unreadable range."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        length = response.headers.get("Content-Length")
        return 0, None if length is None else int(length)
    extent = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    return (int(extent[1]), int(extent[2])) if extent else (-1, None)


def _copy(response: http.client.HTTPResponse, part: Path, start: int, total: int | None) -> None:
    bar = tqdm(desc=part.stem, total=total, initial=start, unit="B", unit_scale=True, disable=not sys.stderr.isatty())
    have = start
    with part.open("ab" if start else "wb") as file, bar:
        while total is None or have < total:
            try:
                # read() would lose what came before an error
                chunk = response.read1(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _BrokenOffError(str(error) or type(error).__name__) from error
            if not chunk:
                break
            file.write(chunk)
            have += len(chunk)
            bar.update(len(chunk))
    if total is not None and have < total:
        raise _BrokenOffError(f"the server closed after {have} of {total} bytes")


def _verify(path: Path, expected: Mapping[str, str]) -> None:
    digests = {name: hashlib.new(name, usedforsecurity=name != "md5") for name in ("md5", "sha256")}
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            for digest in digests.values():
                digest.update(chunk)
    wrong = next((name for name in expected if digests[name].hexdigest() != expected[name]), None)
    if wrong is None:
        sha256 = digests["sha256"].hexdigest()
        logger.info("%s is verified by %s; its sha256 is %s", path, " and ".join(expected), sha256)
        return
    aside = path.with_name(path.name.removesuffix(".part") + ".corrupt")
    os.replace(path, aside)
    raise ValueError(
        f"{wrong} of {path} must be {expected[wrong]}, got {digests[wrong].hexdigest()}: it is damaged or another "
        f"file; it was renamed to {aside}, and a new call downloads it anew"
    )


def _extract(archive: Path, folder: Path) -> None:
    """Unpack beside ``folder`` and rename, so that an interrupted extraction never looks like a data set."""
    temporary = folder.with_name(f".{folder.name}.extracting")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        unpack(archive, temporary)
        if not (temporary / folder.name / "dataset.json").is_file():
            raise ValueError(f"an archive of {folder.name} must hold {folder.name}/dataset.json, {archive} does not")
        os.replace(temporary / folder.name, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
