# SPDX-License-Identifier: Apache-2.0

"""Writing a store: what is in it, what a repeat does, and what a kill leaves."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import zarr

from hybridmim_components.data import fingerprint, read_volume
from hybridmim_components.store import PreparedStore, StoreSettings, open_store, prepare_folders, prepare_store
from hybridmim_components.store.shards import open_shard
from hybridmim_components.system import files
from hybridmim_components.system.folder_lock import FolderLock


@pytest.fixture
def settings(ct_store: PreparedStore) -> StoreSettings:
    return ct_store.settings


@pytest.fixture
def images(ct_images: Path, tmp_path: Path) -> Path:
    """Three images of one's own."""
    (tmp_path / "images").mkdir()
    for seed in range(3):
        shutil.copy2(ct_images / f"scan_{seed}.nii.gz", tmp_path / "images")
    return tmp_path / "images"


def times(store: Path) -> dict[str, int]:
    return {str(path.relative_to(store)): path.stat().st_mtime_ns for path in store.glob("*/*")}


def require_whole(store: Path) -> int:
    """Every volume that has a zarr.json is whole; their number."""
    volumes = [path.parent for path in store.glob("*/zarr.json")]
    for volume in volumes:
        array = zarr.open_array(volume, mode="r")
        record = dict(array.attrs)["hybridmim"]
        assert hashlib.sha256((volume / "c.0.0.0.0").read_bytes()).hexdigest() == record["checksum"]
        array[:]
    return len(volumes)


def test_the_index_tells_what_each_volume_is(ct_store: PreparedStore) -> None:
    rows = ct_store.rows
    assert len(rows) == 5
    for number, row in enumerate(rows):
        source = row["source"].decode()
        image = read_volume(source)
        assert row["fingerprints"][0].decode() == fingerprint(image)
        assert np.allclose(row["source_spacing"], image.pixdim)
        voxels = np.asarray(image)
        assert np.allclose(row["intensity"][0], [voxels.min(), voxels.max(), voxels.mean(), voxels.std()], rtol=1e-5)
        stored = zarr.open_group(ct_store.place.url, mode="r")[row["name"].decode()]
        assert stored.shape == tuple(row["shape"])
        whole = stored[:]
        foreground = np.argwhere(whole[0] > -57)
        assert np.array_equal(row["box"], [foreground.min(0), foreground.max(0) + 1])
        assert ct_store.foreground(number).sum() == len(foreground)
        assert whole.min() >= -57 and whole.max() <= 164
        shard = Path(ct_store.place.url) / row["name"].decode() / "c.0.0.0.0"
        assert (row["bytes"], row["checksum"].decode()) == (
            shard.stat().st_size,
            hashlib.sha256(shard.read_bytes()).hexdigest(),
        )


def test_any_box_is_what_zarr_itself_reads(ct_store: PreparedStore, mri_store: PreparedStore) -> None:
    generator = np.random.default_rng(0)
    for store in (ct_store, mri_store):
        row = store.rows[0]
        whole = zarr.open_group(store.place.url, mode="r")[row["name"].decode()][:]
        with open_shard(store.place, row["name"].decode(), row["shape"], store.settings.background) as shard:
            for _ in range(20):
                low = [int(generator.integers(0, n)) for n in whole.shape[1:]]
                high = [int(generator.integers(a, n)) + 1 for a, n in zip(low, whole.shape[1:], strict=True)]
                out = np.empty((len(whole), *(b - a for a, b in zip(low, high, strict=True))), np.int16)
                shard.read_box(low, out)
                box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
                assert np.array_equal(out, whole[(slice(None), *box)])


def test_a_store_takes_fewer_bytes_than_the_same_voxels_as_nifti(ct_store: PreparedStore, tmp_path: Path) -> None:
    stored = compressed = 0
    for row in ct_store.rows:
        voxels = zarr.open_group(ct_store.place.url, mode="r")[row["name"].decode()][0]
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "same.nii.gz")
        compressed += (tmp_path / "same.nii.gz").stat().st_size
        stored += int(row["bytes"])
    assert stored < compressed


def test_a_repeat_does_what_is_new_or_changed_and_nothing_else(
    images: Path, ct_images: Path, tmp_path: Path, settings: StoreSettings
) -> None:
    store = tmp_path / "store"
    assert prepare_store(images, store, settings, num_workers=0) == 3
    before = times(store)
    shutil.copy2(ct_images / "scan_3.nii.gz", images)
    changed = images / "scan_1.nii.gz"
    shutil.copyfile(ct_images / "scan_4.nii.gz", changed)
    assert prepare_store(images, store, settings, num_workers=0) == 4
    after = times(store)
    assert {Path(name).parent.name for name in after if before.get(name) != after[name]} == {
        hashlib.sha256(str(path).encode()).hexdigest()[:16] for path in (changed, images / "scan_3.nii.gz")
    }
    found = {row["fingerprints"][0].decode() for row in open_store(store, **settings.as_dict()).rows}
    assert found == {fingerprint(read_volume(path)) for path in images.iterdir()}


class Killed(BaseException):
    """Stands for a kill: nothing cleans up behind it."""


@pytest.mark.parametrize("at", range(7))
def test_a_kill_at_any_write_leaves_no_half_volume_and_loses_only_what_was_under_way(
    images: Path, tmp_path: Path, settings: StoreSettings, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    store = tmp_path / "store"
    prepare_store(images, store, settings, num_workers=0)
    for path in images.iterdir():  # all are to be done anew, over what is there
        os.utime(path)
    left = at

    def replace(source: str, target: str) -> None:
        nonlocal left
        if not Path(target).name.startswith("."):  # the owner of the lock
            if left == 0:
                raise Killed
            left -= 1
        os.rename(source, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(files.os, "replace", replace)
        prepare_store(images, store, settings, num_workers=0)
    # two writes a volume; the one under way is out, those after it are whole as they were
    assert require_whole(store) == (3 if at == 6 else 2)
    before = times(store)
    assert prepare_store(images, store, settings, num_workers=0) == 3 == require_whole(store)
    after = times(store)
    again = {Path(name).parent.name for name in after if before.get(name) != after[name]}
    assert len(again) == 3 - at // 2


KILLED = """
import os, signal, sys
from hybridmim_components.system import files
from hybridmim_components.__main__ import main
rename, count = os.replace, 0
def replace(source, target):
    global count
    count += 1
    if count == 5:  # the store, two files of the first volume, one of the second
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)
files.os.replace = replace
main()
"""


@pytest.mark.slow
def test_the_command_goes_on_after_kill_9(images: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    arguments = ["prepare", "--images", str(images), "--store", str(store), "--intensity_range", "[-57,164]"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments, "--num_workers", "0"], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert require_whole(store) == 1 and not (store / "index.npy").exists()
    before = times(store)
    command = [sys.executable, "-m", "hybridmim_components", *arguments, "--num_workers", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"3 volume(s) in {store}" in done.stdout and "1 of 3 volume(s) are in" in done.stderr
    assert "preparing: 100%" in done.stderr
    whole = {name for name in before if f"{Path(name).parent.name}/zarr.json" in before}
    assert all(times(store)[name] == before[name] for name in whole)
    assert require_whole(store) == 3


def test_damage_is_named_when_read_and_repaired_by_verify(
    images: Path, tmp_path: Path, settings: StoreSettings
) -> None:
    store = tmp_path / "store"
    prepare_store(images, store, settings, num_workers=0)
    opened = open_store(store, **settings.as_dict())
    row = opened.rows[1]
    shard = store / row["name"].decode() / "c.0.0.0.0"
    content = bytearray(shard.read_bytes())
    for at in (20, len(content) - 40):  # in the index of the shard, and in a chunk
        damaged = content.copy()
        damaged[at] ^= 4
        shard.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"cannot read the volume {row['name'].decode()} .*not as it was written"):
            with open_shard(opened.place, row["name"].decode(), row["shape"], -57) as reader:
                reader.read_box([0, 0, 0], np.empty(row["shape"], np.int16))
    assert prepare_store(images, store, settings, num_workers=0, verify=True) == 3
    assert shard.read_bytes() == content
    shard.unlink()
    with pytest.raises(ValueError, match="cannot read the volume"), open_shard(opened.place, shard.parent.name, [1], 0):
        pass


def test_unreadable_volumes_are_all_named_or_skipped(images: Path, tmp_path: Path, settings: StoreSettings) -> None:
    store = tmp_path / "store"
    (images / "text.nii.gz").write_text("no image")
    os.truncate(images / "scan_0.nii.gz", 300)
    air = nib.Nifti1Image(np.where(np.indices((20, 20, 20)).sum(0) > 40, -500, -1000).astype(np.int16), np.eye(4))
    nib.save(air, images / "air.nii.gz")
    with pytest.raises(ValueError, match=r"3 of 5 volume\(s\) cannot be used") as error:
        prepare_store(images, store, settings, num_workers=0)
    for name in ("text", "scan_0"):
        assert f"cannot read the image {images / name}.nii.gz" in str(error.value)
    assert f"above the lower end of intensity_range, got none in {images / 'air.nii.gz'}" in str(error.value)
    with pytest.raises(ValueError, match="has no index: repeat the command that prepared it"):
        open_store(store, **settings.as_dict())
    assert prepare_store(images, store, settings, num_workers=0, skip_unreadable=True) == 2


def test_an_index_never_lists_a_volume_as_it_was_before(
    images: Path, ct_images: Path, tmp_path: Path, settings: StoreSettings
) -> None:
    """It held the fingerprint of the old volume, so that a held-out case in its place was trained on unnoticed."""
    store = tmp_path / "store"
    assert prepare_store(images, store, settings, num_workers=0) == 3
    shutil.copyfile(ct_images / "scan_4.nii.gz", images / "scan_1.nii.gz")
    (images / "scan_2.nii.gz").write_text("no image any more")
    with pytest.raises(ValueError, match=r"1 of 3 volume\(s\) cannot be used"):
        prepare_store(images, store, settings, num_workers=0)
    with pytest.raises(ValueError, match="has no index: repeat the command that prepared it"):
        open_store(store, **settings.as_dict())
    assert prepare_store(images, store, settings, num_workers=0, skip_unreadable=True) == 2
    found = {row["fingerprints"][0].decode() for row in open_store(store, **settings.as_dict()).rows}
    assert found == {fingerprint(read_volume(images / f"scan_{n}.nii.gz")) for n in (0, 1)}


@pytest.mark.slow
def test_processes_write_what_one_writes(images: Path, tmp_path: Path, settings: StoreSettings) -> None:
    (images / "text.nii.gz").write_text("no image")
    for name, workers in (("one", 0), ("two", 2)):
        assert prepare_store(images, tmp_path / name, settings, workers, skip_unreadable=True) == 3
    one, two = (
        {p.relative_to(r): p.read_bytes() for p in r.rglob("*") if p.is_file()}
        for r in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two


def test_parts_make_the_store_that_one_command_makes(
    images: Path, tmp_path: Path, settings: StoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: dict[str, int] = {}  # one for each volume, since the hashes of three paths may all fall into one part
    monkeypatch.setattr(prepare_folders, "_place_of", lambda name: places.setdefault(name, len(places)))
    assert prepare_store(images, tmp_path / "one", settings, num_workers=0) == 3
    parts = [prepare_store(images, tmp_path / "parts", settings, 0, part=f"{k}/3") for k in (3, 1, 2)]
    assert parts == [1, 1, 1], "each volume is in one part"
    with pytest.raises(ValueError, match="has no index"):
        open_store(tmp_path / "parts", **settings.as_dict())
    before = times(tmp_path / "parts")
    assert prepare_store(images, tmp_path / "parts", settings, num_workers=0) == 3
    assert before.items() <= times(tmp_path / "parts").items(), "the last command prepares nothing anew"
    one, several = (
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file() and not p.name.startswith(".")}
        for root in (tmp_path / "one", tmp_path / "parts")
    )
    assert one == several


def test_parts_are_of_about_one_size() -> None:
    shares = Counter(prepare_folders._place_of(f"volume_{number}") % 3 for number in range(3000))
    assert set(shares) == {0, 1, 2} and min(shares.values()) > 900


@pytest.mark.parametrize("part", ["0/2", "3/2", "2", "a/b", "1/0"])
def test_a_part_is_a_share(part: str, images: Path, tmp_path: Path, settings: StoreSettings) -> None:
    with pytest.raises(ValueError, match=f"part must be a share such as 2/4, the second of four, got {part}"):
        prepare_store(images, tmp_path / "store", settings, part=part)


def test_a_store_is_filled_by_one_command_at_a_time(images: Path, tmp_path: Path, settings: StoreSettings) -> None:
    store = tmp_path / "store"
    lock = FolderLock(store=store)
    with pytest.raises(OSError, match=f"^store {store} is in use by process {os.getpid()} on host"):
        prepare_store(images, store, settings, num_workers=0)
    lock.release()
    # what a command that was killed at its start may leave
    (store / ".zarr.json.1.partial").touch()
    assert prepare_store(images, store, settings, num_workers=0) == 3
    assert prepare_store(images, store, settings, num_workers=0) == 3


def test_an_object_store_holds_the_same(images: Path, tmp_path: Path, settings: StoreSettings) -> None:
    local = tmp_path / "store"
    prepare_store(images, local, settings, num_workers=0)
    url = f"memory://{tmp_path.name}"
    assert prepare_store(images, url, settings, num_workers=0) == 3
    assert prepare_store(images, url, settings, num_workers=0) == 3
    one, other = open_store(local, **settings.as_dict()), open_store(url, **settings.as_dict())
    assert np.array_equal(one.rows, other.rows)
    for row in one.rows:
        crops = []
        for store in (one, other):
            crops.append(np.empty((1, 40, 40, 10), np.int16))
            with open_shard(store.place, row["name"].decode(), row["shape"], -57) as shard:
                shard.read_box([9, 8, 7], crops[-1])
        assert np.array_equal(*crops)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"spacing": (1.5, 1.5, 1.5)},
            r"with other settings, now spacing \[1.5, 1.5, 1.5\] instead of \[1.5, 1.5, 2.0\]",
        ),
        ({"intensity_range": (-175, 250)}, r"now intensity_range \[-175, 250\] instead of \[-57, 164\]"),
    ],
)
def test_a_store_is_not_mixed(ct_images: Path, ct_store: PreparedStore, change: dict[str, Any], message: str) -> None:
    other = StoreSettings(**{**ct_store.settings.as_dict(), **change})
    with pytest.raises(ValueError, match=message):
        prepare_store(ct_images, ct_store.place.url, other, num_workers=0)
    with pytest.raises(ValueError, match=message.replace("now", "the run has")):
        open_store(ct_store.place.url, **other.as_dict())
