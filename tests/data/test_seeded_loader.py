# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import multiprocessing
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import Dataset
from monai.transforms import Compose, RandScaleIntensityd

from hybridmim_components.data import SeededLoader
from hybridmim_components.data.seeded_loader import _Passes
from hybridmim_components.system.errors import VolumeError


class Images(Dataset):
    """Items of one number each; some cannot be read."""

    def __init__(self, count: int, broken: tuple[int, ...] = ()) -> None:
        super().__init__([{"image": f"image_{i}.nii.gz", "number": i} for i in range(count)], None)
        self.broken, self.random = broken, Compose([RandScaleIntensityd("image", 0.5, prob=1.0)])
        self.transform = self.random

    def __getitem__(self, index: Any) -> Any:
        if index in self.broken:
            raise OSError("it is cut off")
        return self.random({"image": torch.full((1, 4), float(index + 1)), "number": index})


def drawn(loader: SeededLoader, epoch: int, batch: int = 0) -> list[tuple[list[int], torch.Tensor]]:
    loader.begin(epoch, batch)
    return [(b["number"].tolist(), torch.as_tensor(b["image"])) for b in loader]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_can_be_begun_anywhere(num_workers: int) -> None:
    """Amid a pass, too, and where one pass goes over into the next."""
    loader, other = (SeededLoader(Images(10), 2, seed=3, steps=4, num_workers=n) for n in (0, num_workers))
    whole = drawn(loader, epoch=2)
    # whatever was drawn before, and however many workers draw
    drawn(other, epoch=1)
    for batch in range(4):
        rest = drawn(other, epoch=2, batch=batch)
        assert [numbers for numbers, _ in rest] == [numbers for numbers, _ in whole[batch:]]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(rest, whole[batch:], strict=True))


def test_passes_and_seeds_differ_in_order_and_in_what_is_drawn() -> None:
    loader = SeededLoader(Images(10), 10, seed=3, steps=1)
    other_seed = SeededLoader(Images(10), 10, seed=4, steps=1)
    (first,), (second,), (other,) = drawn(loader, 1), drawn(loader, 2), drawn(other_seed, 1)
    assert len({tuple(first[0]), tuple(second[0]), tuple(other[0])}) == 3
    by_number = [dict(zip(n, x[:, 0, 0].tolist(), strict=True)) for n, x in (first, second, other)]
    assert len({by_number[k][0] for k in range(3)}) == 3


def test_where_an_epoch_ends_changes_nothing_of_what_is_drawn() -> None:
    """Two epochs of six steps are three of four: a pass is not cut where an epoch ends."""
    few, many = (SeededLoader(Images(7), 3, seed=1, steps=steps) for steps in (6, 4))
    two = [batch for epoch in (1, 2) for batch in drawn(few, epoch)]
    three = [batch for epoch in (1, 2, 3) for batch in drawn(many, epoch)]
    assert [numbers for numbers, _ in two] == [numbers for numbers, _ in three]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(two, three, strict=True))


@pytest.mark.parametrize("items", [3, 30])
def test_an_epoch_has_its_steps_whatever_the_number_of_items(items: int) -> None:
    loader = SeededLoader(Images(items), 2, steps=7)
    for epoch in (1, 2):
        batches = drawn(loader, epoch)
        assert len(loader) == len(batches) == 7 and all(len(numbers) == 2 for numbers, _ in batches)


def test_one_item_fills_each_batch_with_other_draws_of_it() -> None:
    batches = drawn(SeededLoader(Images(1), 2, steps=3), 1)
    assert [numbers for numbers, _ in batches] == [[0, 0]] * 3
    assert len({float(image[0, 0]) for _, images in batches for image in images}) == 6


@pytest.mark.parametrize("items", [2, 3, 5, 8])
def test_no_batch_has_an_item_twice_and_each_pass_has_each_item_at_most_once(items: int) -> None:
    loader = SeededLoader(Images(items), 2, seed=5, steps=items // 2)  # an epoch is a pass
    left_out = set()
    for epoch in range(1, 30):
        numbers = [number for batch, _ in drawn(loader, epoch) for number in batch]
        assert len(set(numbers)) == len(numbers) == items - items % 2
        left_out |= set(range(items)) - set(numbers)
    # another one each time, so that all are trained on
    assert left_out == (set(range(items)) if items % 2 else set())


@pytest.mark.parametrize(("items", "ranks"), [(10, 2), (13, 3), (4, 2)])
def test_the_ranks_share_each_step_and_no_item_is_in_two_of_them(items: int, ranks: int) -> None:
    batch_size, steps = 2, 9
    passes = [_Passes(items, batch_size, steps, seed=0, processes=ranks, rank=rank) for rank in range(ranks)]
    for own in passes:
        own.epoch, own.start = 2, 1
    places = [list(own) for own in passes]
    assert all(len(own) == batch_size * (steps - 1) for own in places)
    together = sorted(place for own in places for place in own)
    first = (steps + 1) * batch_size * ranks
    assert together == list(range(first, first + len(together)))  # one row, nothing twice, nothing left out
    for step in range(steps - 1):
        of_step = [
            p.item(place) for p, own in zip(passes, places, strict=True) for place in own[2 * step : 2 * step + 2]
        ]
        assert len(set(of_step)) == batch_size * ranks


def test_an_epoch_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="steps_per_epoch must be at least 1, got 0"):
        SeededLoader(Images(3), 1, steps=0)


def test_validation_keeps_the_order_and_each_item_once() -> None:
    loader = SeededLoader(Images(5), 2)
    for epoch in (1, 2):
        batches = [(b["number"].tolist(), b["case"]) for b in loader]
        assert [numbers for numbers, _ in batches] == [[0, 1], [2, 3], [4]]
        assert batches[0][1] == ["image_0.nii.gz", "image_1.nii.gz"]
        loader.begin(epoch, 1)  # as a training would; a validation is always whole


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_volume_that_fails_is_named_in_one_line(num_workers: int) -> None:
    loader = SeededLoader(Images(4, broken=(2,)), 4, num_workers=num_workers)
    with pytest.raises(VolumeError) as error:
        list(loader)
    assert str(error.value) == "cannot use image_2.nii.gz: OSError: it is cut off"


def test_by_the_switch_another_one_takes_its_place(caplog: pytest.LogCaptureFixture) -> None:
    """One that the batch does not have, since the contrast takes its negatives from other volumes."""
    first, second = SeededLoader(Images(6, broken=(1, 3)), 3, skip_unreadable=True)
    assert first["number"].tolist() == [0, 4, 2] and second["number"].tolist() == [0, 4, 5]
    assert "Skipped: cannot use image_1.nii.gz" in caplog.text
    # where there is none
    (batch,) = SeededLoader(Images(3, broken=(1,)), 3, skip_unreadable=True)
    assert batch["number"].tolist() == [0, 2, 2]
    with pytest.raises(VolumeError, match="none of the volumes can be used any more"):
        list(SeededLoader(Images(2, broken=(0, 1)), 1, skip_unreadable=True))


def test_a_worker_that_dies_is_told(tmp_path: Path) -> None:
    class Deadly(Images):
        def __getitem__(self, index: Any) -> Any:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ChildProcessError, match="a process that loads data has died, .* lower num_workers"):
        list(SeededLoader(Deadly(4), 2, num_workers=1))


def begun(loader: SeededLoader) -> tuple[Iterator[Any], list[Any]]:
    """What is left after the first batch, and the processes that load it; those of a test before may still live."""
    before = set(multiprocessing.active_children())
    batches = iter(loader)
    next(batches)
    return batches, [process for process in multiprocessing.active_children() if process not in before]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_serve_on_when_another_program_tells_all_processes_to_stop(number: signal.Signals) -> None:
    batches, workers = begun(SeededLoader(Images(40), 1, num_workers=2))
    assert len(workers) == 2
    for worker in workers:
        subprocess.run(["kill", f"-{number.value}", str(worker.pid)], check=True)
    assert len(list(batches)) == 39
    # and this process takes signals again
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_workers_end_when_their_parent_tells_them_to() -> None:
    batches, workers = begun(SeededLoader(Images(40), 1, num_workers=2))
    for worker in workers:
        worker.terminate()
        worker.join(timeout=20)
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_where_processes_cannot_wait_for_signals_they_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridmim_components.system.stop_signals._CAN_WAIT", False)
    monkeypatch.delattr(signal, "sigwaitinfo")
    monkeypatch.delattr(signal, "pthread_sigmask")
    assert len(list(SeededLoader(Images(4), 2, num_workers=1))) == 2
