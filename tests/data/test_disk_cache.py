# SPDX-License-Identifier: Apache-2.0

"""Entries of the disk cache, which several runs fill and read at once."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Transform

from hybridmim_components.data import SeededLoader, make_dataset
from hybridmim_components.data.disk_cache import hash_item
from hybridmim_components.system import files

ITEMS = [{"image": number} for number in range(4)]


class Reading(Transform):
    """A deterministic transform that counts its calls, and waits for others in the midst of them."""

    calls: list[int] = []
    wait: Callable[[], Any] = staticmethod(lambda: None)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(item["image"])
        self.wait()
        return {"image": MetaTensor(torch.full((1, 4, 4, 4), float(item["image"])))}


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    monkeypatch.setattr(Reading, "calls", [])
    return Reading.calls


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


def cached(folder: Path, items: list[dict[str, Any]] = ITEMS) -> Any:
    return make_dataset(items, Compose([Reading()]), "disk", folder)


def test_what_is_found_and_what_is_new_make_one_batch(tmp_path: Path, calls: list[int]) -> None:
    cached(tmp_path)[0]  # of another fold
    (batch,) = SeededLoader(cached(tmp_path), 4)
    assert batch["image"].flatten(1)[:, 0].tolist() == [0, 1, 2, 3] and calls == [0, 1, 2, 3]
    (again,) = SeededLoader(cached(tmp_path), 4)
    assert torch.equal(again["image"], batch["image"]) and len(calls) == 4
    assert type(again["image"]) is type(batch["image"]) is torch.Tensor


def test_two_runs_that_fill_an_entry_at_once_both_go_on(
    tmp_path: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2, timeout=20)
    monkeypatch.setattr(Reading, "wait", staticmethod(both.wait))
    datasets, found = [cached(tmp_path) for _ in range(2)], []
    threads = [threading.Thread(target=lambda d=d: found.append(d[3]["image"])) for d in datasets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [3, 3] and [float(image.mean()) for image in found] == [3, 3]
    assert cached(tmp_path)[3]["image"].mean() == 3 and len(calls) == 2
    assert [path.suffix for path in entries(tmp_path)] == [".pt"]


def test_an_entry_is_complete_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, save = [], torch.save

    def save_and_look(content: Any, file: Any) -> None:
        save(content, file)
        seen.append([path.suffix for path in entries(tmp_path)])

    monkeypatch.setattr(files.torch, "save", save_and_look)
    cached(tmp_path)[0]
    assert seen == [[files.PARTIAL]] and [path.suffix for path in entries(tmp_path)] == [".pt"]


@pytest.mark.parametrize("size", [0, 10, 700])
def test_an_entry_that_was_cut_off_is_made_anew(tmp_path: Path, calls: list[int], size: int) -> None:
    cached(tmp_path)[2]
    (path,) = entries(tmp_path)
    whole = path.read_bytes()
    assert len(whole) > 700
    path.write_bytes(whole[:size])
    with pytest.warns(UserWarning, match=f"Corrupt cache file, made anew: {path}"):
        assert cached(tmp_path)[2]["image"].mean() == 2
    assert cached(tmp_path)[2]["image"].mean() == 2 and calls == [2, 2]


def test_a_disk_that_takes_no_more_is_told_once_and_ends_nothing(
    tmp_path: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(files.torch, "save", full)
    with caplog.at_level(logging.WARNING):
        dataset = cached(tmp_path)
        assert [float(dataset[i]["image"].mean()) for i in (0, 1, 0)] == [0, 1, 0]
    assert calls == [0, 1, 0] and entries(tmp_path) == []
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("The disk cache does not grow: cannot write") and "No space left" in told


def test_a_file_counts_by_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"volume")
        os.utime(tmp_path / name, ns=(1, 1))
    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    one = hash_item({"image": str(tmp_path / "a")})
    assert hash_item({"image": "a"}) == hash_item({"image": ["link"]}) == one
    assert hash_item({"image": "b"}) != one
