# SPDX-License-Identifier: Apache-2.0

"""Reading of boxes of a stored volume directly from its shard.

A crop touches some 60 chunks, and zarr itself spends most of the time reading them one by one. The shard's own index
tells where they lie. Reading them by it takes a fraction of the time (``benchmarks/prepared_store.py`` compares both).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from types import ModuleType

import numpy as np

from hybridmim_components.store.encoding import CHUNK, SHARD, chunk_grid
from hybridmim_components.store.places import Ranges, StorePlace

__all__ = ["ShardReader", "open_shard"]

ABSENT = 2**64 - 1  # a chunk with only background is not stored
CRC = 4  # bytes


class DamagedError(Exception):
    """Error for a shard that is not as it was written."""


@contextmanager
def open_shard(place: StorePlace, name: str, shape: Sequence[int], background: int) -> Iterator[ShardReader]:
    """Open a stored volume to read parts of it.

    Args:
        place: the store.
        name: name of the volume.
        shape: (C, H, W, D).
        background: value of chunks that are not stored.

    Raises:
        ValueError: when the volume is missing or damaged.
    """
    try:
        with place.ranges(f"{name}/{SHARD}") as read:
            yield ShardReader(read, shape, background)
    except (OSError, RuntimeError, DamagedError) as error:
        raise ValueError(
            f"cannot read the volume {name} of the store {place.url}: {error}; repair it by the command that "
            "prepared the store, with --verify"
        ) from error


class ShardReader:
    """Reader of boxes of one volume.

    Args:
        read: function that returns ranges of the shard's bytes.
        shape: (C, H, W, D) of the volume.
        background: value of chunks that are not stored.
    """

    def __init__(self, read: Callable[[Ranges], list[bytes]], shape: Sequence[int], background: int) -> None:
        self._read = read
        self._background = background
        self._blosc, self._crc32c = _libraries()
        grid = chunk_grid(shape)
        size = 16 * int(np.prod(grid))
        index = self._verified(read([(0, size + CRC)])[0], size)
        self._places = np.frombuffer(index, "<u8").reshape(*grid, 2)

    def _verified(self, content: bytes, size: int) -> bytes:
        body = content[:size]
        if len(content) != size + CRC or self._crc32c(body) != int.from_bytes(content[size:], "little"):
            raise DamagedError("it is not as it was written")
        return body

    def read_box(self, start: Sequence[int], out: np.ndarray) -> None:
        """Read a box of all channels.

        Args:
            start: first voxel on the three axes.
            out: array (C, h, w, d), int16, that is filled. The box must lie inside the volume.

        Raises:
            DamagedError: when the shard is damaged.
        """
        stop = [first + size for first, size in zip(start, out.shape[1:], strict=True)]
        cells = list(product(*(range(a // CHUNK, -(-b // CHUNK)) for a, b in zip(start, stop, strict=True))))
        wanted = [(channel, *cell) for channel in range(len(out)) for cell in cells]
        places = {at: tuple(self._places[at].tolist()) for at in wanted}
        stored = [at for at in wanted if places[at][0] != ABSENT]
        if len(stored) < len(wanted):
            out.fill(self._background)
        if not stored:
            return
        chunk = np.empty((CHUNK, CHUNK, CHUNK), np.int16)
        for at, content in zip(stored, self._read([places[at] for at in stored]), strict=True):
            self._blosc.decompress(self._verified(content, places[at][1] - CRC), chunk)
            low = [max(cell * CHUNK, first) for cell, first in zip(at[1:], start, strict=True)]
            high = [min((cell + 1) * CHUNK, last) for cell, last in zip(at[1:], stop, strict=True)]
            target = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
            source = tuple(slice(a - c * CHUNK, b - c * CHUNK) for a, b, c in zip(low, high, at[1:], strict=True))
            out[at[0]][target] = chunk[source]


def _libraries() -> tuple[ModuleType, Callable[[bytes], int]]:
    import google_crc32c
    from numcodecs import blosc

    # blosc's threads do not survive the fork of a data loader's workers, which run in parallel anyway
    blosc.use_threads = False
    return blosc, google_crc32c.value
