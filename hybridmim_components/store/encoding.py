# SPDX-License-Identifier: Apache-2.0

"""Encoding of one volume as a Zarr v3 array of one shard, which any Zarr library can read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["CHUNK", "METADATA", "SHARD", "chunk_grid", "encode_volume", "with_attributes"]

CHUNK = 32  # voxels per side; smaller chunks cost more overhead, larger ones hold more voxels outside a crop
METADATA = "zarr.json"
SHARD = "c.0.0.0.0"


def chunk_grid(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Return the number of chunks on each axis of a volume (C, H, W, D)."""
    channels, *axes = (int(size) for size in shape)
    height, width, depth = (-(-size // CHUNK) for size in axes)
    return channels, height, width, depth


def encode_volume(voxels: np.ndarray, background: int) -> tuple[dict[str, Any], bytes]:
    """Compress a volume.

    Args:
        voxels: (C, H, W, D), int16, with at least one voxel that is not ``background``.
        background: chunks that hold only this value are left out.

    Returns:
        Metadata of the array (the content of its ``zarr.json``), and its one shard.
    """
    import zarr  # optional dependency that only this function needs
    from zarr.codecs import BloscCodec, Crc32cCodec
    from zarr.storage import MemoryStore

    files: dict[str, Any] = {}
    channels, *cells = chunk_grid(voxels.shape)
    # an index at the start of the file is found without knowing the file's length
    shards: Any = {"shape": (channels, *(n * CHUNK for n in cells)), "index_location": "start"}
    array = zarr.create_array(
        MemoryStore(files),
        shape=voxels.shape,
        dtype="int16",
        chunks=(1, CHUNK, CHUNK, CHUNK),
        shards=shards,
        compressors=[BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=2), Crc32cCodec()],
        chunk_key_encoding={"name": "default", "separator": "."},
        fill_value=background,
        dimension_names=["channel", "x", "y", "z"],
    )
    array[:] = voxels
    return json.loads(files[METADATA].to_bytes()), files[SHARD].to_bytes()


def with_attributes(metadata: Mapping[str, Any], attributes: Mapping[str, Any]) -> bytes:
    """Return the content of a ``zarr.json`` with additional attributes."""
    return json.dumps({**metadata, "attributes": dict(attributes)}).encode()
