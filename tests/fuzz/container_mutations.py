# SPDX-License-Identifier: Apache-2.0

"""Weights and archives that run code, claim any size, or lead out of their folder."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Iterator
from typing import Any

import torch
from good_files import TASK, network, saved, tar_of

Named = Iterator[tuple[str, bytes]]


class _Runs:
    """A pickle that runs a command."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch ran",)


def weights(good: bytes) -> Named:
    state = network().state_dict()
    first = next(iter(state))
    weight = state[first]
    yield "code in a zip", saved({"state_dict": {**state, first: _Runs()}})
    yield "code in a pickle", pickle.dumps(_Runs())
    yield "code in the recipe", saved({"state_dict": state, "recipe": _Runs()})
    yield "a whole module", saved(network())
    for name, value in {
        "a list": [1.0],
        "a string": "x" * 100,
        "NaN": weight * float("nan"),
        "infinity": weight / 0,
        "whole numbers": weight.int(),
        "complex": weight.to(torch.complex64),
        "another shape": weight[:, :, :1],
        "a scalar": weight.sum(),
        "no element": weight[:0],
        "a terabyte of one value": weight[:1, :1, :1, :1, :1].expand(weight.shape[0], 2**38, *weight.shape[2:]),
        "sparse": weight.to_sparse(),
        "meta": weight.to("meta"),
        "half precision": weight.half(),
    }.items():
        yield f"a tensor is {name}", saved({**state, first: value})
    yield "a number for a name", saved({**state, 7: weight})
    yield "a list of tensors", saved(list(state.values()))
    yield "nothing", saved({})
    yield "a state dict in a state dict", saved({"state_dict": {"state_dict": state}})
    yield "another network", saved({"conv.weight": weight})
    for name, recipe in {
        "a list": [1],
        "tensors": {"spacing": weight},
        "volumes that are a number": {"volumes": 7},
        "volumes that are numbers": {"volumes": [1, 2]},
        "sets": {"spacing": {1, 2}},
        "numbers for names": {1: 2},
    }.items():
        yield f"the recipe is {name}", saved({"state_dict": state, "recipe": recipe})
    yield "the recipe is deep", _deep_recipe(state)
    yield "compressed: many zeros", _compressed(good)
    yield "old format", _old(state)
    for share in (0.1, 0.5, 0.9, 0.999):
        yield f"{share:.1%} of the file", good[: int(share * len(good))]
    yield "empty", b""
    yield "text", b"<html>log in</html>"


def _deep_recipe(state: dict[str, Any]) -> bytes:
    """Lists within lists, put into the pickle by hand: Python's pickler would recurse."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved({"state_dict": state, "recipe": "PLACE"}))) as archive:
        with zipfile.ZipFile(target, "w") as copy:
            for member in archive.infolist():
                data = archive.read(member).replace(b"X\x05\0\0\0PLACE", b"]" * 5000 + b"a" * 4999)
                copy.writestr(zipfile.ZipInfo(member.filename), data)
    return target.getvalue()


def _compressed(good: bytes) -> bytes:
    """A part of the file is replaced by many zeros, packed."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as archive, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as copy:
        for member in archive.infolist():
            if member.filename.endswith("data/0"):
                info = zipfile.ZipInfo(member.filename)
                info.compress_type = zipfile.ZIP_DEFLATED
                with copy.open(info, "w") as part:
                    for _ in range(4):
                        part.write(bytes(1 << 24))
            else:
                copy.writestr(zipfile.ZipInfo(member.filename), archive.read(member))
    return target.getvalue()


def _old(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def archive(good: bytes) -> Named:
    members = {"dataset.json": b"{}", "imagesTr/a.nii.gz": b"a" * 600}
    base = [(tarfile.TarInfo(f"{TASK}/{name}"), content) for name, content in members.items()]

    def with_member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b"") -> bytes:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, link
        return tar_of([*base, (member, content)])

    for name in ("../evil", "/tmp/hybridmim_evil", f"{TASK}/../../evil", f"{TASK}/" + "a/" * 200, "a" * 5000, "a\nb"):
        yield f"member {name[:20]!r}", with_member(name, content=b"evil")
    yield "symbolic link", with_member(f"{TASK}/link", tarfile.SYMTYPE, "/etc")
    yield "hard link", with_member(f"{TASK}/link", tarfile.LNKTYPE, "/etc/hostname")
    for name, kind in {"device": tarfile.CHRTYPE, "disk": tarfile.BLKTYPE, "pipe": tarfile.FIFOTYPE}.items():
        yield name, with_member(f"{TASK}/{name}", kind)
    yield "sparse terabyte", _sparse(base)
    yield "gzip of many zeros", gzip.compress(with_member(f"{TASK}/zeros", content=bytes(16 << 20)), mtime=0)
    yield "a file and a folder of one name", with_member(f"{TASK}/dataset.json/a", content=b"x")
    # one header again and again, since tarfile takes seconds to write as many
    yield "many members", good[:2560] + tarfile.TarInfo(f"{TASK}/a").tobuf() * 100_001 + bytes(1024)
    yield "no data set", tar_of([(tarfile.TarInfo("Other/dataset.json"), b"{}")])
    yield "empty", b""
    yield "half", good[: len(good) // 2]


def _sparse(base: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """A member of a few bytes that says it is a terabyte of holes."""
    member = tarfile.TarInfo(f"{TASK}/sparse")
    member.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.name": f"{TASK}/sparse",
        "GNU.sparse.size": str(2**40),
        "GNU.sparse.map": "0,512",
    }
    return tar_of([*base, (member, b"x" * 512)])
