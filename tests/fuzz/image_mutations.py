# SPDX-License-Identifier: Apache-2.0

"""Volumes that aim at what a reader believes: sizes, offsets, types, names of other files."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from typing import Any

Named = Iterator[tuple[str, bytes]]


def _patched(good: bytes, offset: int, layout: str, *values: Any) -> bytes:
    return good[:offset] + struct.pack(layout, *values) + good[offset + struct.calcsize(layout) :]


def nifti(good: bytes) -> Named:
    for name, dims in {
        "terabytes": (3, 32767, 32767, 32767, 1, 1, 1, 1),
        "exabytes": (7, *[32767] * 7),
        "ten GiB": (3, 2048, 2048, 1024, 1, 1, 1, 1),
        "negative": (3, -6, 5, 3, 1, 1, 1, 1),
        "zero": (3, 0, 5, 3, 1, 1, 1, 1),
        "no axes": (0, 6, 5, 3, 1, 1, 1, 1),
        "nine axes": (9, 6, 5, 3, 1, 1, 1, 1),
        "two axes": (2, 6, 5, 3, 1, 1, 1, 1),
        "one more slice": (3, 6, 5, 4, 1, 1, 1, 1),
        "channels": (4, 6, 5, 1, 3, 1, 1, 1),
    }.items():
        yield f"dim: {name}", _patched(good, 40, "<8h", *dims)
    for datatype, bits in ((0, 0), (1, 1), (128, 24), (1536, 128), (2048, 256), (4, 64), (-1, -1)):
        yield f"datatype {datatype}, bitpix {bits}", _patched(good, 70, "<2h", datatype, bits)
    for offset in (0.0, -1.0, 348.0, 1e30, float("nan"), float("inf"), 1e9):
        yield f"vox_offset {offset}", _patched(good, 108, "<f", offset)
    for slope in (0.0, float("nan"), float("inf"), 1e38):
        yield f"scl_slope {slope}", _patched(good, 112, "<2f", slope, slope)
    yield "sform of NaN", _patched(good, 280, "<12f", *[float("nan")] * 12)
    yield "sform of zeros", _patched(good, 280, "<12f", *[0.0] * 12)
    yield "sform without end", _patched(good, 280, "<12f", *[3e38] * 12)
    yield "no form, no spacing", _patched(_patched(good, 252, "<2h", 0, 0), 76, "<8f", *[0.0] * 8)
    yield "spacing of NaN", _patched(_patched(good, 252, "<2h", 0, 0), 76, "<8f", *[float("nan")] * 8)
    yield "quaternion above 1", _patched(_patched(good, 252, "<2h", 1, 0), 256, "<3f", 5, 5, 5)
    for magic in (b"ni1\0", b"n+2\0", b"\0\0\0\0"):
        yield f"magic {magic!r}", good[:344] + magic + good[348:]
    for size in (0, -1, 2**31 - 1, 7, 16):
        extended = good[:348] + struct.pack("<4B2i", 1, 0, 0, 0, size, 6) + bytes(24) + good[352:]
        yield f"extension of {size}", _patched(extended, 108, "<f", 384)
    yield "sizeof_hdr of the other byte order", _patched(good, 0, ">i", 348)
    yield "gzip without .gz", gzip.compress(good, mtime=0)
    yield "empty", b""


def gzipped_nifti(good: bytes) -> Named:
    plain = gzip.decompress(good)
    for name, content in nifti(plain):
        if name.startswith(("dim: t", "dim: exa", "vox_offset", "extension")):
            yield f"{name} in gzip", gzip.compress(content, mtime=0)
    huge = _patched(plain, 40, "<8h", 3, 32767, 32767, 2000, 1, 1, 1, 1)
    # 64 MiB of zeros in 64 kB: as far as a file of this size can go
    yield (
        "bomb: header as large as the zeros allow",
        gzip.compress(_patched(plain, 40, "<8h", 3, 512, 512, 128, 1, 1, 1, 1)[:352] + bytes(64 << 20), mtime=0),
    )
    yield "bomb: header beyond them", gzip.compress(huge[:352] + bytes(64 << 20), mtime=0)
    endless = _patched(plain, 108, "<f", 384)[:348] + struct.pack("<4B2i", 1, 0, 0, 0, 0, 6)
    yield "bomb: an extension without end", gzip.compress(endless + bytes(64 << 20), mtime=0)
    yield "checksum", good[:-8] + bytes(4) + good[-4:]
    yield "twice gzip", gzip.compress(good, mtime=0)
    yield "no gzip", plain
    yield "half", good[: len(good) // 2]
    yield "gzip's header alone", good[:10]
    yield "empty", b""


def dicom(good: bytes) -> Named:
    def element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
        return struct.pack("<2H2sH", group, number, kind, len(value)) + value

    rows, columns = element(0x28, 0x10, b"US", b"\5\0"), element(0x28, 0x11, b"US", b"\6\0")
    assert rows in good and columns in good
    large = good.replace(rows, rows[:-2] + b"\xff\xff").replace(columns, columns[:-2] + b"\xff\xff")
    yield "65535 x 65535", large
    frames = element(0x28, 0x08, b"IS", b"2147483647 "[:10])
    yield "two thousand million frames", good.replace(rows, frames + rows)
    yield "terabytes", large.replace(rows[:-2] + b"\xff\xff", frames + rows[:-2] + b"\xff\xff")
    yield "another number of rows", good.replace(rows, rows[:-2] + b"\4\0")
    yield "no rows", good.replace(rows, b"")
    name = element(0x10, 0x10, b"PN", b"Doe^Jane")
    assert name in good
    yield "a name that is longer than the file", good.replace(name, name[:6] + b"\xff\xff" + name[8:])
    yield "a sequence in the name", good.replace(name, struct.pack("<2H2sHI", 0x10, 0x10, b"SQ", 0, 0xFFFFFFFF))
    yield "four GB of something unknown", good.replace(name, struct.pack("<2H2sHI", 0x10, 0x10, b"OB", 0, 0xFFFFFFF0))
    yield "another series", good.replace(b"1.2.3.4\0", b"1.2.3.5\0")
    yield "unknown transfer syntax", good.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0")
    yield "JPEG 2000 that is none", good.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.90")
    yield "other bits", good.replace(element(0x28, 0x100, b"US", b"\x10\0"), element(0x28, 0x100, b"US", b"\x07\0"))
    yield "no preamble", good[132:]
    yield "preamble alone", good[:132]
    yield "no pixels", good[: good.rindex(b"\xe0\x7f\x10\0")]
    yield "half of the pixels", good[:-30]
    yield "no DICOM", b"these are not the slices that you are looking for\n" * 20
    yield "empty", b""


def _text(good: bytes, changes: dict[str, tuple[bytes, bytes]]) -> Named:
    for name, (old, new) in changes.items():
        assert old in good, name
        yield name, good.replace(old, new, 1)


def metaimage(good: bytes) -> Named:
    size, data = b"DimSize = 6 5 3", b"ElementDataFile = LOCAL"
    yield from _text(
        good,
        {
            "terabytes": (size, b"DimSize = 99999 99999 99999"),
            "negative": (size, b"DimSize = -6 5 3"),
            "no size": (size, b"DimSize ="),
            "words": (size, b"DimSize = six five three"),
            "too many axes": (b"NDims = 3", b"NDims = 4000"),
            "no axes": (b"NDims = 3", b"NDims = 0"),
            "unknown type": (b"MET_SHORT", b"MET_NOTHING"),
            "compressed": (b"CompressedData = False", b"CompressedData = True"),
            "spacing of NaN": (b"ElementSpacing = 2 1.5 3", b"ElementSpacing = nan nan nan"),
            "spacing of 0": (b"ElementSpacing = 2 1.5 3", b"ElementSpacing = 0 0 0"),
            "another file": (data, b"ElementDataFile = /etc/hostname"),
            "a file above": (data, b"ElementDataFile = ../other.raw"),
            "a device": (data, b"ElementDataFile = /dev/zero"),
            "a list": (data, b"ElementDataFile = LIST\n/etc/hostname"),
            "a pattern": (data, b"ElementDataFile = %n%s%s.raw 1 9 1"),
            "a long name": (data, b"ElementDataFile = " + b"a" * 5000),
            "no data": (data, b"Comment = none"),
        },
    )
    yield "empty", b""


def nrrd(good: bytes) -> Named:
    size, encoding = b"sizes: 6 5 3", b"encoding: raw"
    yield from _text(
        good,
        {
            "terabytes": (size, b"sizes: 99999 99999 99999"),
            "negative": (size, b"sizes: -6 5 3"),
            "too few sizes": (size, b"sizes: 6 5"),
            "too many axes": (b"dimension: 3", b"dimension: 999"),
            "no such type": (b"type: short", b"type: nothing"),
            "block type": (b"type: short", b"type: block\nblock size: 99999999"),
            "gzip that is none": (encoding, b"encoding: gzip"),
            "bzip2 that is none": (encoding, b"encoding: bzip2"),
            "text that is none": (encoding, b"encoding: ascii"),
            "another file": (encoding, b"encoding: raw\ndata file: /etc/hostname"),
            "a list": (encoding, b"encoding: raw\ndata file: LIST\n/etc/hostname"),
            "skip": (encoding, b"encoding: raw\nbyte skip: 99999999999"),
            "skip backwards": (encoding, b"encoding: raw\nbyte skip: -1\nline skip: 99999"),
            "directions of NaN": (b"(2,0,0)", b"(nan,nan,nan)"),
            "no directions": (b"(2,0,0)", b"none"),
        },
    )
    yield "empty", b""
