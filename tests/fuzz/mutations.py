# SPDX-License-Identifier: Apache-2.0

"""Mutated files, made from good ones: the same ones on every machine."""

from __future__ import annotations

import random
from collections.abc import Callable

from container_mutations import archive, weights
from good_files import GOOD
from image_mutations import Named, dicom, gzipped_nifti, metaimage, nifti, nrrd
from json_mutations import any_json, dataset_json, recipe_json

_AIMED: dict[str, Callable[[bytes], Named]] = {
    "nii": nifti,
    "nii.gz": gzipped_nifti,
    "dicom": dicom,
    "mha": metaimage,
    "nrrd": nrrd,
    "dataset.json": dataset_json,
    "recipe": recipe_json,
    "volumes.json": any_json,
    "weights": weights,
    "tar": archive,
}


def mutations(kind: str, random_ones: int) -> Named:
    """Name and content: those that aim at the format, then seeded damage of the bytes.

    Args:
        kind: a key of :data:`good_files.GOOD`.
        random_ones: how many of the latter.
    """
    good = GOOD[kind]()
    yield from _AIMED[kind](good)
    for index in range(random_ones):
        yield _damaged(good, random.Random(f"{kind} {index}"), index)


def _damaged(good: bytes, draw: random.Random, index: int) -> tuple[str, bytes]:
    content = bytearray(good)
    # most of what a reader believes stands at the beginning
    reach = len(content) if index % 2 else min(len(content), 400)
    at = draw.randrange(reach)
    length = draw.choice((1, 4, 16, 64))
    damage = ("flip", "cut", "zero", "ones", "noise", "insert", "remove", "repeat")[index % 8]
    if damage == "flip":
        for _ in range(draw.choice((1, 3, 20))):
            content[draw.randrange(reach)] ^= 1 << draw.randrange(8)
    elif damage == "cut":
        del content[at:]
    elif damage == "insert":
        content[at:at] = draw.randbytes(length)
    elif damage == "remove":
        del content[at : at + length]
    elif damage == "repeat":
        content[at:at] = content[at : at + 64] * 4
    else:
        fill = {"zero": bytes(length), "ones": b"\xff" * length, "noise": draw.randbytes(length)}[damage]
        content[at : at + length] = fill[: len(content) - at]
    return f"{damage} at {at}", bytes(content)
