# SPDX-License-Identifier: Apache-2.0

"""What processes on several machines agree on before they join; benchmarks/faults.py kills real ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch.distributed as dist

from hybridmim_components.workflow.distributed import attempt_name


def names(store: dist.Store, numbers: list[int]) -> list[str]:
    with ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(lambda number: attempt_name(store, number, 3), numbers))


def test_all_processes_get_one_name_and_each_attempt_another() -> None:
    store = dist.HashStore()
    attempts = [names(store, order) for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2])]
    assert all(len(set(attempt)) == 1 for attempt in attempts)
    assert len({attempt[0] for attempt in attempts}) == 3, "what is left of an attempt is not taken for the next one"


def test_what_a_dead_process_has_said_does_not_count() -> None:
    store = dist.HashStore()
    first = names(store, [0, 1, 2])
    store.set("hello_1", "of a process that died before it was welcomed")
    second = names(store, [0, 1, 2])
    assert len(set(second)) == 1 and second[0] != first[0]


def test_a_process_alone_waits_for_nobody() -> None:
    assert attempt_name(dist.HashStore(), 0, 1)
