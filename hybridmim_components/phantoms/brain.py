# SPDX-License-Identifier: Apache-2.0

"""A seeded generator of MR-like, skull-stripped brains with a tumour: four sequences and their label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from hybridmim_components.phantoms.grid import blur, check_grid, smooth_noise

__all__ = ["BRAIN_SIZE", "BRAIN_SPACING", "MODALITIES", "brain_phantom"]

Field = NDArray[np.float32]
BRAIN_SIZE, BRAIN_SPACING = (80, 96, 80), (2.0, 2.0, 2.0)
MODALITIES = ("flair", "t1", "t1ce", "t2")
# LESION is the harmless kind that comes with age
_Tissue = IntEnum("_Tissue", "NONE CSF GREY WHITE VESSEL CHOROID LESION OEDEMA ENHANCING NECROTIC", start=0)
# brightness by modality; healthy tissues resemble each part of the tumour, so that no threshold finds it
_BRIGHTNESS = {
    _Tissue.CSF: (130, 170, 180, 900),
    _Tissue.GREY: (450, 380, 400, 500),
    _Tissue.WHITE: (350, 510, 530, 370),
    _Tissue.VESSEL: (300, 360, 800, 260),
    _Tissue.CHOROID: (480, 330, 760, 640),
    _Tissue.LESION: (610, 430, 440, 610),
    _Tissue.OEDEMA: (570, 370, 380, 680),
    _Tissue.ENHANCING: (550, 390, 750, 580),
    _Tissue.NECROTIC: (530, 250, 250, 800),
}
_LABELS = {_Tissue.OEDEMA: 2, _Tissue.ENHANCING: 4, _Tissue.NECROTIC: 1}


class _Canvas:
    """Brain that is being painted. Lengths are fractions of half the field of view: +x right, +y front, +z head."""

    def __init__(self, rng: np.random.Generator, size: Sequence[int], spacing: Sequence[float]) -> None:
        self.rng, self.size, self.spacing = rng, tuple(size), spacing
        axes = (np.linspace(-1 + 1 / n, 1 - 1 / n, n, dtype=np.float32) for n in size)
        # the size of the brain varies, and it is smaller than the field of view
        x, y, z = ((axis + np.float32(rng.normal(0, 0.01))) / rng.uniform(0.94, 1.0) for axis in axes)
        self.x, self.y, self.z = x[:, None, None], y[:, None], z
        self.tissue = np.zeros(size, np.uint8)

    def noise(self, scale: float = 0.0, millimetres: float = 0.0) -> Field:
        return smooth_noise(self.rng, self.size, self.spacing, scale, millimetres)

    def ellipsoid(self, centre: Sequence[float], radii: Sequence[float], mirrored: bool = False) -> Field:
        """Return a field that is 0 in the centre and 1 at the surface; ``mirrored``: one in each half of the brain."""
        x = np.abs(self.x) if mirrored else self.x
        squares = (((a - c) / r) ** 2 for a, c, r in zip((x, self.y, self.z), centre, radii, strict=True))
        level: Field = np.sqrt(sum(squares)).astype(np.float32)
        return level

    def paint(self, where: NDArray[np.bool_], tissue: _Tissue) -> None:
        self.tissue[where] = tissue


def brain_phantom(
    rng: np.random.Generator, size: Sequence[int] = BRAIN_SIZE, spacing: Sequence[float] = BRAIN_SPACING
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Draw one skull-stripped brain with a tumour: shape, folds, tumour, bias fields, gains and noise vary.

    Args:
        rng: the only source of randomness.
        size: voxels (H, W, D), at least 16 each. The brain fills the field of view, whatever its size.
        spacing: voxel size in mm, which determines blur and texture.

    Returns:
        Two volumes in RAS, indices growing towards the patient's right, front and head: the images (4, H, W, D) in the
        order of :data:`MODALITIES`, 0 outside the brain and positive inside, and the label (H, W, D) in the values of
        BraTS: 1 necrotic core, 4 enhancing rim around it, 2 oedema around both.

    Raises:
        ValueError: when size or spacing is out of range.

    Example:
        >>> images, label = brain_phantom(np.random.default_rng(0), size=(32, 32, 32))
        >>> images.shape, np.unique(label).tolist()
        ((4, 32, 32, 32), [0, 1, 2, 4])
        >>> MODALITIES[images[:, label == 4].mean(1).argmax()]  # the sequence in which the rim is brightest
        't1ce'
    """
    check_grid(size, spacing)
    canvas = _Canvas(rng, size, spacing)
    inside = _paint_brain(canvas)
    _paint_tumour(canvas, inside)
    images = np.stack([_scan(canvas, channel) for channel in range(len(MODALITIES))])
    values = np.zeros(len(_Tissue), np.uint8)
    values[list(_LABELS)] = list(_LABELS.values())
    return images, values[canvas.tissue]


def _paint_brain(canvas: _Canvas) -> Field:
    """Paint the healthy tissues. Returns the level of the cerebrum: 0 in its middle, 1 at its surface."""
    height = np.where(canvas.z > 0.1, 0.82, 0.45)  # flatter below
    halves = np.abs(canvas.x / 0.84) ** 2.2 + np.abs(canvas.y / 0.94) ** 2.2 + np.abs((canvas.z - 0.1) / height) ** 2.2
    cerebrum = np.minimum(np.sqrt(halves), canvas.ellipsoid((0.46, 0.12, -0.3), (0.32, 0.52, 0.34), mirrored=True))
    cerebrum = (cerebrum + 0.02 * canvas.noise(0.25)).astype(np.float32)
    cerebellum = canvas.ellipsoid((0, -0.48, -0.52), (0.56, 0.4, 0.36)) + 0.015 * canvas.noise(0.3)
    stem = np.maximum(canvas.ellipsoid((0, -0.12, 0), (0.15, 0.16, 9)), np.abs(canvas.z + 0.55) / 0.4)
    canvas.paint(stem < 1, _Tissue.WHITE)
    _paint_cerebellum(canvas, cerebellum)
    _paint_cortex(canvas, cerebrum)
    _paint_ventricles(canvas)
    # veins in the folds, at the surface and along the midline
    vessels = (np.hypot(canvas.noise(0.22), canvas.noise(0.22)) < 0.16) & (cerebrum > 0.4) & (cerebrum < 1)
    sinus = (np.abs(canvas.x) < 0.035) & (cerebrum > 0.92) & (cerebrum < 1) & (canvas.z > -0.1) & (canvas.y < 0.7)
    canvas.paint(vessels | sinus, _Tissue.VESSEL)
    return cerebrum


def _paint_cerebellum(canvas: _Canvas, level: Field) -> None:
    leaves = np.cos(np.float32(2 * math.pi) * (8 * canvas.z - 3 * canvas.y) + 0.8 * canvas.noise(0.2))
    canvas.paint(level < 1, _Tissue.GREY)
    canvas.paint((level < 0.9) & (leaves < -0.8), _Tissue.WHITE)
    canvas.paint((level > 0.8) & (level < 1) & (leaves > 0.85), _Tissue.CSF)
    canvas.paint(level < 0.45, _Tissue.WHITE)


def _paint_cortex(canvas: _Canvas, level: Field) -> None:
    fold = np.abs(canvas.noise(0.12))  # its zeros wind like the sulci of the cortex
    depth = 1 - level
    midline = np.abs(canvas.x) + 0 * level
    # only the corpus callosum connects the halves
    cleft = (canvas.ellipsoid((0, -0.03, 0.02), (9, 0.52, 0.32)) > 1) & (canvas.z > -0.25)
    canvas.paint(depth > 0, _Tissue.WHITE)
    canvas.paint((depth > 0) & ((depth < 0.08) | ((fold < 0.6) & (depth < 0.28))), _Tissue.GREY)
    canvas.paint((depth > 0) & cleft & (midline < 0.08), _Tissue.GREY)
    canvas.paint((depth > 0) & cleft & (midline < max(0.018, 0.7 / canvas.size[0])), _Tissue.CSF)
    canvas.paint((depth > 0) & ((depth < 0.02) | ((fold < 0.2) & (depth < 0.2))), _Tissue.CSF)
    for centre, radii in (
        ((0.13, -0.1, 0.0), (0.1, 0.17, 0.11)),  # thalamus
        ((0.31, 0.06, 0.0), (0.06, 0.23, 0.14)),  # putamen
        ((0.18, 0.28, 0.1), (0.06, 0.13, 0.14)),  # caudate nucleus
    ):
        canvas.paint(canvas.ellipsoid(centre, radii, mirrored=True) < 1, _Tissue.GREY)


def _paint_ventricles(canvas: _Canvas) -> None:
    swelling = canvas.rng.uniform(0.8, 1.35)
    arch = canvas.z - 0.17 + 0.55 * canvas.y**2  # horns point down at both ends
    lateral = np.sqrt(
        ((np.abs(canvas.x) - 0.11) / (0.065 * swelling)) ** 2 + (canvas.y / 0.44) ** 2 + (arch / (0.1 * swelling)) ** 2
    )
    spots, patches = canvas.noise(0.1), canvas.noise(0.25)
    white = canvas.tissue == _Tissue.WHITE
    canvas.paint(white & (((lateral < 1.6) & (patches > 0.3)) | (spots > 1.9)), _Tissue.LESION)
    canvas.paint(lateral < 1, _Tissue.CSF)
    canvas.paint((lateral < 1) & (patches > 0.9) & (canvas.y < 0.15), _Tissue.CHOROID)
    for centre, radii in (((0, -0.04, -0.03), (0.03, 0.16, 0.13)), ((0, -0.3, -0.48), (0.09, 0.06, 0.12))):
        canvas.paint(canvas.ellipsoid(centre, radii) < 1, _Tissue.CSF)  # third and fourth ventricle


def _paint_tumour(canvas: _Canvas, level: Field) -> None:
    rng, brain = canvas.rng, canvas.tissue != _Tissue.NONE
    thick = 2 * max(2 / n for n in canvas.size)  # thickness of a part around another one: two voxels, dents included
    whole = rng.uniform(0.24, 0.42)
    core = max(whole * rng.uniform(0.5, 0.7), 1.3 * thick)
    # no core at the surface of the brain, where nothing could surround it
    crowding = blur((~brain).astype(np.float32), [(core + thick) * n / 4 for n in canvas.size])
    crowding += (np.abs(canvas.x) < 0.12) | (level > 1)
    place = rng.choice(np.argwhere(crowding < max(0.02, crowding.min() + 0.001)))
    centre = [float(axis.ravel()[i]) for axis, i in zip((canvas.x, canvas.y, canvas.z), place, strict=True)]
    distance = canvas.ellipsoid(centre, rng.uniform(0.85, 1.15, 3).tolist())
    # dents grow with the distance, so that the voxel in the centre always belongs to the tumour
    distance *= 1 + 0.12 * np.clip(canvas.noise(0.15), -2, 2)
    spread = distance * (1 + 0.15 * np.clip(canvas.noise(0.2), -2, 2))
    spread *= np.where(canvas.tissue == _Tissue.GREY, 1.25, 1)  # oedema follows the white matter
    core = min(core, float(distance[~brain].min()) - thick)
    oedema = (spread < whole) & (canvas.tissue != _Tissue.CSF) & (canvas.tissue != _Tissue.VESSEL)
    canvas.paint(brain & (oedema | (distance < core + thick)), _Tissue.OEDEMA)
    canvas.paint(distance < core, _Tissue.ENHANCING)
    canvas.paint(distance < max(min(core * rng.uniform(0.4, 0.75), core - thick), 0.2 * thick), _Tissue.NECROTIC)


def _scan(canvas: _Canvas, channel: int) -> NDArray[np.int16]:
    """Draw one sequence: tissues, texture, blur, bias field, noise, and a random gain, since scanners differ."""
    rng = canvas.rng
    brightness = np.full(len(_Tissue), _BRIGHTNESS[_Tissue.CSF][channel], np.float32)  # fluid surrounds the brain
    for tissue, row in _BRIGHTNESS.items():
        brightness[tissue] = row[channel] * np.exp(rng.normal(0, 0.04))
    image = brightness[canvas.tissue] * (1 + 0.04 * canvas.noise(millimetres=4) + 0.04 * canvas.noise(millimetres=14))
    image = blur(image, [rng.uniform(0.8, 1.3) / mm for mm in canvas.spacing])
    image *= np.exp(0.14 * canvas.noise(0.8))
    image += rng.uniform(10, 20) * rng.standard_normal(image.shape, dtype=np.float32)
    image *= np.exp(rng.normal(0, 0.4))
    scanned = np.clip(np.rint(image), 1, 32767).astype(np.int16)
    scanned[canvas.tissue == _Tissue.NONE] = 0
    return scanned
