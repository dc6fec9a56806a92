# SPDX-License-Identifier: Apache-2.0

"""A seeded generator of CT-like abdomens: image in Hounsfield units and map of organs."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hybridmim_components.phantoms.grid import blur, check_grid, smooth_noise

__all__ = ["DEFAULT_SIZE", "DEFAULT_SPACING", "EXTRAS", "Organ", "abdomen_phantom"]

Triple = tuple[float, float, float]
Indices = tuple[NDArray[np.intp], ...]
Organ = IntEnum(
    "Organ",
    "AIR FAT MUSCLE SPINE RIB LUNG LIVER SPLEEN KIDNEY_RIGHT KIDNEY_LEFT STOMACH AORTA VENA_CAVA GALLBLADDER PANCREAS "
    "BOWEL HEART OESOPHAGUS PORTAL_VEIN ADRENAL_RIGHT ADRENAL_LEFT LIVER_TUMOUR",
    start=0,
)
Organ.__doc__ = """Codes of the organs and tissues in the map that :func:`abdomen_phantom` draws.

Example:
    >>> image, organs = abdomen_phantom(np.random.default_rng(0), size=(32, 32, 32))
    >>> [organ.name for organ in (Organ.LIVER, Organ.LIVER_TUMOUR) if (organs == organ).any()]  # no extras
    ['LIVER']
"""
#: Organs painted on request, in this order. Nothing hides this pancreas, and the portal vein includes the splenic vein.
EXTRAS = (
    Organ.PANCREAS,
    Organ.OESOPHAGUS,
    Organ.PORTAL_VEIN,
    Organ.ADRENAL_RIGHT,
    Organ.ADRENAL_LEFT,
    Organ.LIVER_TUMOUR,
)
DEFAULT_SIZE, DEFAULT_SPACING = (96, 96, 64), (3.0, 3.0, 4.0)


class _Blob(NamedTuple):
    """Tilted, bent ellipsoid. Lengths are fractions of half the field of view: +x right, +y front, +z head."""

    organ: Organ
    centre: Triple
    radii: Triple
    plain: float  # HU without contrast agent
    gain: float = 0.0  # HU that full contrast adds
    tilt: float = 0.0  # degrees in the axial plane
    bend: float = 0.0  # shift of the ends along the first axis, in its radii
    shell: float = 0.0  # HU that the outer layer adds
    gas: float = 9.0  # height above the centre, in radii, from which there is gas


# later blobs cover earlier ones; their means are so close and vary so much that no threshold separates the organs
_BLOBS = (
    _Blob(Organ.MUSCLE, (0.18, -0.46, 0), (0.20, 0.15, 9), 54, 8, tilt=-15),
    _Blob(Organ.MUSCLE, (-0.18, -0.46, 0), (0.20, 0.15, 9), 54, 8, tilt=15),
    _Blob(Organ.MUSCLE, (0.19, -0.20, -0.8), (0.08, 0.11, 0.7), 54, 8),
    _Blob(Organ.MUSCLE, (-0.19, -0.20, -0.8), (0.08, 0.11, 0.7), 54, 8),
    _Blob(Organ.HEART, (-0.12, 0.16, 1.1), (0.42, 0.32, 0.35), 42, 85, tilt=-20),
    _Blob(Organ.PANCREAS, (-0.08, 0.06, 0.02), (0.08, 0.36, 0.13), 40, 50, tilt=80, bend=-0.8),
    _Blob(Organ.STOMACH, (-0.33, 0.24, 0.32), (0.22, 0.25, 0.42), 46, 45, tilt=25, bend=0.4, shell=12, gas=0.45),
    _Blob(Organ.SPLEEN, (-0.56, -0.17, 0.30), (0.15, 0.33, 0.38), 50, 60, tilt=28, bend=0.55),
    _Blob(Organ.LIVER, (-0.08, 0.30, 0.45), (0.42, 0.20, 0.28), 58, 52, tilt=-12),
    _Blob(Organ.LIVER, (0.40, 0.06, 0.28), (0.46, 0.54, 0.66), 58, 52),
    _Blob(Organ.GALLBLADDER, (0.34, 0.30, -0.12), (0.08, 0.11, 0.15), 8, tilt=20),
    _Blob(Organ.KIDNEY_RIGHT, (0.38, -0.22, -0.32), (0.13, 0.17, 0.36), 32, 75, tilt=30, bend=-0.5, shell=30),
    _Blob(Organ.KIDNEY_RIGHT, (0.33, -0.20, -0.32), (0.06, 0.05, 0.18), -55, 40, tilt=30),
    _Blob(Organ.KIDNEY_LEFT, (-0.38, -0.22, -0.20), (0.13, 0.17, 0.36), 32, 75, tilt=-30, bend=0.5, shell=30),
    _Blob(Organ.KIDNEY_LEFT, (-0.33, -0.20, -0.20), (0.06, 0.05, 0.18), -55, 40, tilt=-30),
    _Blob(Organ.AORTA, (-0.06, -0.04, 0), (0.055, 0.055, 9), 42, 95),
    _Blob(Organ.VENA_CAVA, (0.13, -0.03, 0), (0.07, 0.05, 9), 40, 65, tilt=10),
)


class _Tube(NamedTuple):
    """Bent tube, in the units of a blob."""

    course: tuple[Triple, ...]
    radius: float
    plain: float  # HU without contrast agent
    gain: float = 0.0  # HU that full contrast adds


_TUBES = {
    Organ.PANCREAS: (
        _Tube(((0.17, 0.06, -0.12), (0.08, 0.13, 0.02), (-0.12, 0.11, 0.06), (-0.38, -0.02, 0.14)), 0.065, 40, 50),
    ),
    Organ.OESOPHAGUS: (
        _Tube(((-0.02, 0.05, 1.1), (-0.06, 0.07, 0.75), (-0.14, 0.1, 0.5), (-0.25, 0.15, 0.4)), 0.05, 38, 25),
    ),
    Organ.PORTAL_VEIN: (
        _Tube(
            ((-0.44, -0.1, 0.22), (-0.25, 0.0, 0.14), (0.0, 0.07, 0.06), (0.15, 0.09, 0.14), (0.3, 0.1, 0.26)),
            0.04,
            42,
            85,
        ),
    ),
    Organ.ADRENAL_RIGHT: (
        _Tube(((0.2, -0.1, 0.24), (0.17, -0.19, 0.07)), 0.026, 34, 45),
        _Tube(((0.2, -0.1, 0.24), (0.27, -0.19, 0.09)), 0.026, 34, 45),
    ),
    Organ.ADRENAL_LEFT: (
        _Tube(((-0.2, -0.08, 0.28), (-0.17, -0.19, 0.11)), 0.026, 34, 45),
        _Tube(((-0.2, -0.08, 0.28), (-0.27, -0.18, 0.13)), 0.026, 34, 45),
    ),
}
_FIRM = (Organ.AORTA, Organ.VENA_CAVA, Organ.SPINE, Organ.GALLBLADDER, Organ.KIDNEY_RIGHT, Organ.KIDNEY_LEFT)


class _Canvas:
    """Case that is being painted."""

    def __init__(self, rng: np.random.Generator, size: Sequence[int], spacing: Sequence[float]) -> None:
        self.rng, self.spacing = rng, spacing
        x, y, z = (np.linspace(-1 + 1 / n, 1 - 1 / n, n, dtype=np.float32) for n in size)
        self.hu = np.full(size, -1000, np.float32)
        self.organs = np.zeros(size, np.uint8)
        self.contrast, self.fat = rng.uniform(), rng.uniform(0.07, 0.2)
        self.textures = self.noise(millimetres=5), self.noise(millimetres=12)
        self.dents = self.noise(0.3), self.noise(0.3)
        # scaled to the space inside the fat, so that organs keep their places in every build
        width, depth = rng.uniform(0.86, 0.94), rng.uniform(0.66, 0.76)
        self.x, self.y = x[:, None, None] * 0.8 / (width * (1 - self.fat)), y[:, None] * 0.61 / (depth * (1 - self.fat))
        self.z = z
        skin = np.abs(x / width)[:, None, None] ** 2.3 + np.abs(y / depth)[:, None] ** 2.3
        self.level = np.sqrt(skin) + 0.02 * self.noise(0.5)  # 0 in the middle of the body, 1 at the skin

    def noise(self, scale: float = 0.0, millimetres: float = 0.0) -> NDArray[np.float32]:
        """Draw smooth noise of unit variance. Its scale is in mm or a fraction of half the field of view."""
        return smooth_noise(self.rng, self.hu.shape, self.spacing, scale, millimetres)

    def paint(self, where: NDArray[np.bool_] | Indices, organ: Organ, hu: float, texture: float = 0.0) -> None:
        self.organs[where] = organ
        self.hu[where] = hu + texture * self.mixed(*(field[where] for field in self.textures))

    def mixed(self, one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mix noise of unit variance for one organ, which is far cheaper than a new field."""
        angle = self.rng.uniform(0, 2 * math.pi)
        return math.cos(angle) * one + math.sin(angle) * other


def abdomen_phantom(
    rng: np.random.Generator,
    size: Sequence[int] = DEFAULT_SIZE,
    spacing: Sequence[float] = DEFAULT_SPACING,
    extras: Collection[Organ] = (),
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Draw one CT-like upper abdomen: build, organs, contrast phase, textures and noise vary from draw to draw.

    Args:
        rng: the only source of randomness.
        size: voxels (H, W, D), at least 16 each. The anatomy fills the field of view, whatever its size.
        spacing: voxel size in mm, which determines blur and texture.
        extras: which of :data:`EXTRAS` to paint in addition to the other organs.

    Returns:
        Two volumes (H, W, D) in RAS, indices growing towards the patient's right, front and head: the image in HU and
        the map of :class:`Organ` codes.

    Raises:
        ValueError: when size, spacing or extras is out of range.

    Example:
        >>> image, organs = abdomen_phantom(np.random.default_rng(0), size=(32, 32, 32))
        >>> image.shape, image.dtype
        ((32, 32, 32), dtype('int16'))
        >>> bool(image[organs == Organ.LUNG].mean() < image[organs == Organ.LIVER].mean())
        True
    """
    check_grid(size, spacing)
    if not set(extras) <= set(EXTRAS):
        raise ValueError(f"extras must be among {[o.name for o in EXTRAS]}, got {list(extras)}")
    canvas = _Canvas(rng, size, spacing)
    _paint_wall(canvas)
    for blob in (*_bowel(rng), *_BLOBS):
        _paint_blob(canvas, blob)
    _paint_lungs_and_liver_vessels(canvas)
    _paint_spine(canvas)
    # extras have their own generators, so that they do not change what a seed draws otherwise
    for organ, own in zip(EXTRAS, rng.spawn(len(EXTRAS)) if extras else (), strict=False):
        if organ in extras:
            canvas.rng = own
            (_paint_tumours if organ == Organ.LIVER_TUMOUR else _paint_tubes)(canvas, organ)
    image = blur(canvas.hu, [rng.uniform(1.6, 2.2) / mm for mm in spacing])
    image += rng.uniform(10, 15) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16), canvas.organs


def _paint_wall(canvas: _Canvas) -> None:
    inner = 1 - canvas.fat
    canvas.paint(canvas.level < 1, Organ.FAT, -105, 8)
    canvas.paint(canvas.level < inner, Organ.MUSCLE, 54 + 8 * canvas.contrast, 8)
    # ribs slope down to the front, so that each of them is a short arc in an axial slice
    course = np.cos(2 * np.pi * (3.3 * canvas.z + 2.2 * canvas.y + canvas.rng.uniform())) + 0 * canvas.x
    chest = canvas.z > -0.45 - 0.5 * canvas.y
    depth = np.abs(canvas.level - inner + 0.055)
    canvas.paint((depth < 0.026) & (course > 0.55) & chest & (np.abs(canvas.x) > 0.3), Organ.RIB, 420, 60)
    canvas.paint(canvas.level < inner - 0.1, Organ.FAT, -102, 9)
    vessels = np.hypot(canvas.noise(0.2), canvas.noise(0.2)) < 0.22
    canvas.paint(vessels & (canvas.level < inner - 0.12), Organ.FAT, 20 + 60 * canvas.contrast)


def _bowel(rng: np.random.Generator) -> list[_Blob]:
    places = [(rng.uniform(-0.55, 0.55), rng.uniform(-0.05, 0.42), rng.uniform(-1.0, 0.0)) for _ in range(16)]
    radii = [(rng.uniform(0.08, 0.14), rng.uniform(0.08, 0.16), rng.uniform(0.08, 0.2)) for _ in places]
    gas = rng.choice([9.0, 0.2], len(places), p=[0.65, 0.35])
    return [_Blob(Organ.BOWEL, p, r, 32, 25, shell=18, gas=g) for p, r, g in zip(places, radii, gas, strict=True)]


def _paint_blob(canvas: _Canvas, blob: _Blob) -> None:
    rng = canvas.rng
    cx, cy, cz = (c + rng.normal(0, 0.03) for c in blob.centre)
    x, y, z = canvas.x - np.float32(cx), canvas.y - np.float32(cy), canvas.z - np.float32(cz)
    rx, ry, rz = (float(r * np.exp(rng.normal(0, 0.09))) for r in blob.radii)
    angle = math.radians(blob.tilt + rng.normal(0, 5))
    v = (y * math.cos(angle) - x * math.sin(angle)) / ry
    u = (x * math.cos(angle) + y * math.sin(angle)) / rx - blob.bend * v**2
    distance = u**2 + v**2 + (z / rz) ** 2
    limit = 1 - canvas.fat - (0.02 if blob.organ == Organ.MUSCLE else 0.11)
    near = np.nonzero((distance < 2) & (canvas.level < limit))  # most voxels are far away
    radius = np.sqrt(distance[near]) + 0.1 * canvas.mixed(*(dents[near] for dents in canvas.dents))
    inside = radius < 1
    where, radius = tuple(index[inside] for index in near), radius[inside]
    canvas.paint(where, blob.organ, blob.plain + blob.gain * canvas.contrast + rng.normal(0, 6), rng.uniform(4, 9))
    canvas.hu[where] += blob.shell * (radius > 0.78)
    gas = (radius < 0.9) & (y.ravel()[where[1]] > blob.gas * ry)
    canvas.hu[tuple(index[gas] for index in where)] = -900


def _paint_lungs_and_liver_vessels(canvas: _Canvas) -> None:
    cavity = canvas.level / (0.89 - canvas.fat)
    lungs = (cavity < 1) & (canvas.z > np.maximum(0.64, 1.2 - 0.7 * cavity**3)) & (canvas.organs != Organ.HEART)
    canvas.paint(lungs, Organ.LUNG, -840, 25)
    vessels = np.hypot(canvas.noise(0.2), canvas.noise(0.2)) < 0.2
    canvas.hu[vessels & (canvas.organs == Organ.LIVER)] += 40 * canvas.contrast - 12
    canvas.hu[vessels & lungs] = 0


def _paint_spine(canvas: _Canvas) -> None:
    x, y = canvas.x, canvas.y + 0.24 + 0.03 * np.cos(2 * canvas.z)
    body, canal = np.hypot(x / 0.13, y / 0.10) + 0.03 * canvas.noise(0.1), np.hypot(x / 0.055, (y + 0.14) / 0.045)
    disc = (np.cos(2 * np.pi * (3.3 * canvas.z + canvas.rng.uniform())) > 0.75) & (body < 9)
    arch = (canal < 1.7) | ((np.abs(x) < 0.025) & (y < -0.15) & (y > -0.34))
    arch |= (np.hypot(x / 0.21, (y + 0.12) / 0.025) < 1) & ~disc
    canvas.paint(arch, Organ.SPINE, 420, 60)
    canvas.paint(body < 1, Organ.SPINE, 310, 45)
    canvas.hu[(body > 0.86) & (body < 1)] = 560
    canvas.hu[disc & (body < 1)] = 95
    canvas.hu[(canal < 1) & (body > 1)] = 25


def _paint_tubes(canvas: _Canvas, organ: Organ) -> None:
    rng = canvas.rng
    place, hu = rng.normal(0, 0.015, 3), rng.normal(0, 6)
    thinnest = 0.6 * max(2 / n for n in canvas.organs.shape)  # or a gland could fall between coarse voxels
    hard = np.isin(canvas.organs, _FIRM)
    soft = np.isin(canvas.organs, (Organ.LIVER, Organ.HEART, Organ.LUNG))  # here, fat surrounds the tube
    for tube in _TUBES[organ]:
        radius = max(tube.radius * float(np.exp(rng.normal(0, 0.1))), thinnest)
        distance = _distance(canvas, [rng.normal(place, 0.01) + point for point in tube.course])
        soft &= canvas.organs != organ  # no fat on an earlier tube of the organ
        canvas.paint((distance < radius + 0.03) & soft, Organ.FAT, -100, 8)
        canvas.paint((distance < radius) & ~hard, organ, tube.plain + tube.gain * canvas.contrast + hu, 6)


def _distance(canvas: _Canvas, course: Sequence[NDArray[np.float64]]) -> NDArray[np.float32]:
    """Return the distance (H, W, D) from a line through the points of ``course``."""
    nearest = np.full(canvas.hu.shape, np.inf, np.float32)
    for start, end in zip(course, course[1:], strict=False):
        offsets = [axis - np.float32(s) for axis, s in zip((canvas.x, canvas.y, canvas.z), start, strict=True)]
        way = (end - start).astype(np.float32)
        along = np.clip(sum(o * w for o, w in zip(offsets, way, strict=True)) / (way @ way), 0, 1)
        square = sum((o - along * w) ** 2 for o, w in zip(offsets, way, strict=True))
        nearest = np.minimum(nearest, square)
    return np.sqrt(nearest)


def _paint_tumours(canvas: _Canvas, organ: Organ) -> None:
    rng, size = canvas.rng, canvas.organs.shape
    # high deep inside the liver, where tumours keep their shape, and low at its surface
    depth = blur((canvas.organs == Organ.LIVER).astype(np.float32), [0.06 * n for n in size])
    liver_hu = 58 + 52 * canvas.contrast
    for _ in range(rng.integers(1, 5)):
        where = np.nonzero(canvas.organs == Organ.LIVER)
        deep = depth[where]
        centre = rng.choice(np.argwhere(deep >= np.quantile(deep, 0.5)).ravel())
        radii = float(np.exp(rng.uniform(math.log(0.06), math.log(0.2)))) * np.exp(rng.normal(0, 0.1, 3))
        offsets = [(index - index[centre]) * (2 / n / r) for index, n, r in zip(where, size, radii, strict=True)]
        radius = np.sqrt(sum(o**2 for o in offsets))
        # dents grow with the radius, so that the voxel in the centre always belongs to the tumour
        radius *= 1 + 0.15 * canvas.mixed(*(dents[where] for dents in canvas.dents))
        inside = radius < 1
        mask = tuple(index[inside] for index in where)
        dark, rim = rng.uniform(12, 40), rng.choice([0.0, rng.uniform(15, 45)], p=[0.65, 0.35])
        canvas.paint(mask, organ, liver_hu - dark, rng.uniform(5, 10))
        canvas.hu[mask] += rim * (radius[inside] > 0.7)
