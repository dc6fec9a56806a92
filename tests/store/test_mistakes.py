# SPDX-License-Identifier: Apache-2.0
"""Mistakes in the use of a store end with a message that names them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridmim_components.store import PreparedStore, StoreSettings, open_store, prepare_store

MISTAKES: dict[str, tuple[Callable[..., Any], str]] = {
    "no folder": (
        lambda tmp, own: prepare_store("/nowhere", tmp, own),
        "images must be existing folders, got /nowhere",
    ),
    "files": (
        lambda tmp, own: prepare_store(tmp, tmp, own),
        "must be a prepared store or an empty folder, got .*files",
    ),
    "no store": (lambda tmp, own: open_store(tmp, **own.as_dict()), "store must be what .* prepare. wrote, got"),
    "none": (lambda tmp, own: open_store(None, **own.as_dict()), "cache 'store' needs store, .*got none"),
    "scheme": (
        lambda tmp, own: open_store("nofs://x", **own.as_dict()),
        "an fsspec URL, got nofs://x: Protocol not kn",
    ),
    "fractions": (lambda tmp, own: StoreSettings((1, 1, 1), (0.5, 2)), "intensity_range must be two whole numbers"),
    "order": (lambda tmp, own: StoreSettings((1, 1, 1), (3, 2)), r"low first, got \[3, 2\]"),
    "spacing": (lambda tmp, own: StoreSettings((1, 0, 1), (0, 2)), "spacing must be 3 positive numbers"),
    "both": (
        lambda tmp, own: StoreSettings((1, 1, 1), (0, 2), ["t1"]),
        "one of intensity_range .* got intensity_range and modalities",
    ),
    "percentiles": (
        lambda tmp, own: StoreSettings((1, 1, 1), clip_percentiles=(99, 1)),
        r"clip_percentiles must be two numbers in 0..100, low first, got \[99, 1\]",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake: str, tmp_path: Path, ct_store: PreparedStore) -> None:
    call, message = MISTAKES[mistake]
    (tmp_path / "file.txt").touch()
    with pytest.raises((ValueError, OSError), match=message):
        call(tmp_path, ct_store.settings)


def test_a_missing_package_is_named(
    ct_images: Path, ct_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(
        ValueError, match="needs zarr, which is not installed: pip install 'hybridmim-components.store.'"
    ):
        prepare_store(ct_images, tmp_path, ct_store.settings, num_workers=0)
    monkeypatch.setitem(sys.modules, "numcodecs", None)
    with pytest.raises(ValueError, match="needs numcodecs, which is not installed"):
        open_store(ct_store.place.url, **ct_store.settings.as_dict())
