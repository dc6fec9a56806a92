# SPDX-License-Identifier: Apache-2.0

"""Settings of a store: how its volumes are pre-processed, and how its integers become the input of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from hybridmim_components.data.volumes import VolumeRules

__all__ = ["StoreSettings"]

HU_LIMIT = 32767
STEPS_PER_DEVIATION = 512  # of z-scored MRI; the rounding error is at most 0.001 standard deviations


@dataclass(frozen=True)
class StoreSettings:
    """Pre-processing of a store: CT has ``intensity_range``, MRI ``modalities`` or ``clip_percentiles`` (one channel).

    Stored voxels are int16. CT is stored as HU, clipped to the range and rounded. This changes the input of a network
    by at most ``0.5 / (high - low)``. MRI is stored as z-scores in steps of 1/512, which changes them by at most 0.001.
    With ``modalities``, the z-scores are those of each modality inside the brain. With ``clip_percentiles``, they are
    those of the whole image after clipping.

    Attributes:
        spacing: spacing of the voxels, mm.
        intensity_range: HU that become 0 and 1; whole numbers.
        modalities: MRI sequences, which are the channels.
        clip_percentiles: percentiles of MRI with one channel, in 0..100, low first.

    Raises:
        ValueError: when a setting is out of range, or not exactly one of the last three is given.

    Example:
        >>> settings = StoreSettings(spacing=(1.5, 1.5, 2.0), intensity_range=(-57, 164))
        >>> settings.stored(np.array([-1000.0, 12.4, 900.0]))
        array([-57,  12, 164], dtype=int16)
        >>> StoreSettings(spacing=(1.5, 1.5, 2.0))
        Traceback (most recent call last):
        ValueError: a store needs one of intensity_range (CT), modalities (MRI) and clip_percentiles ..., got none
    """

    spacing: Sequence[float]
    intensity_range: Sequence[float] | None = None
    modalities: Sequence[str] | None = None
    clip_percentiles: Sequence[float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "spacing", tuple(float(mm) for mm in self.spacing))
        if len(self.spacing) != 3 or min(self.spacing) <= 0:
            raise ValueError(f"spacing must be 3 positive numbers of mm, got {list(self.spacing)}")
        kinds = ("intensity_range", "modalities", "clip_percentiles")
        given = [name for name in kinds if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "a store needs one of intensity_range (CT), modalities (MRI) and clip_percentiles (MRI with one "
                f"channel), got {' and '.join(given) or 'none'}"
            )
        if self.modalities is not None:
            object.__setattr__(self, "modalities", tuple(str(name) for name in self.modalities))
        if self.clip_percentiles is not None:
            object.__setattr__(self, "clip_percentiles", _percentiles(self.clip_percentiles))
        if self.intensity_range is not None:
            object.__setattr__(self, "intensity_range", _whole_range(self.intensity_range))

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.modalities or "1")

    @property
    def rules(self) -> VolumeRules:
        """Requirements on a volume."""
        brain, ct = self.modalities is not None, self.intensity_range is not None
        return VolumeRules(channels=self.channels, zero_background=brain, hounsfield=ct)

    @property
    def background(self) -> int:
        """Stored number of the background, which becomes 0 in the input of a network."""
        return int(self.intensity_range[0]) if self.intensity_range else 0

    @property
    def scale(self) -> float:
        """Size of one stored step in the input of a network."""
        if self.intensity_range:
            return 1.0 / (self.intensity_range[1] - self.intensity_range[0])
        return 1.0 / STEPS_PER_DEVIATION

    def stored(self, voxels: np.ndarray) -> np.ndarray:
        """Convert voxels to the numbers that are stored.

        Args:
            voxels: (C, H, W, D), HU or z-scores.

        Returns:
            The same shape, int16.
        """
        if self.intensity_range:
            low, high = self.intensity_range
            return np.rint(np.clip(voxels, low, high)).astype(np.int16)
        return np.clip(np.rint(voxels * STEPS_PER_DEVIATION), -HU_LIMIT, HU_LIMIT).astype(np.int16)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings that are given, as JSON holds them."""
        return {field.name: list(value) for field in fields(self) if (value := getattr(self, field.name)) is not None}

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Return one text for each setting that differs from ``other``, with its name and both values."""
        own = self.as_dict()
        different = [name for name in sorted(own.keys() | other.keys()) if own.get(name) != other.get(name)]
        return [f"{name} {own.get(name)} instead of {other.get(name)}" for name in different]


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    numbers = [float(value) for value in values]
    if len(numbers) != 2 or not 0 <= numbers[0] < numbers[1] <= 100:
        raise ValueError(f"clip_percentiles must be two numbers in 0..100, low first, got {list(values)}")
    return numbers[0], numbers[1]


def _whole_range(values: Sequence[float]) -> tuple[int, int]:
    numbers = [float(value) for value in values]
    whole = all(number.is_integer() and abs(number) <= HU_LIMIT for number in numbers)
    if len(numbers) != 2 or not whole or numbers[0] >= numbers[1]:
        raise ValueError(f"intensity_range must be two whole numbers of HU for a store, low first, got {list(values)}")
    return int(numbers[0]), int(numbers[1])
