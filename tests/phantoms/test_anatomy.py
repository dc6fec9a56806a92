# SPDX-License-Identifier: Apache-2.0

"""What the phantoms of abdomens look like."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hybridmim_components.phantoms import Organ, abdomen_phantom
from hybridmim_components.phantoms.anatomy import EXTRAS

SMALL: dict[str, Any] = {"size": (40, 40, 28), "spacing": (7.0, 7.0, 9.0)}


def draw(seed: int, **options: Any) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    return abdomen_phantom(np.random.default_rng(seed), **{**SMALL, **options})


def best_threshold_dice(image: NDArray[np.int16], mask: NDArray[np.bool_]) -> float:
    """Dice of the best of all ranges of HU, from histograms summed up."""
    edges = np.arange(-200, 400, 5)
    chosen, hits = (np.r_[0, np.histogram(v, edges)[0].cumsum()] for v in (image, image[mask]))
    size, overlap = chosen[None] - chosen[:, None], hits[None] - hits[:, None]
    return float((2 * overlap / (np.maximum(size, 0) + mask.sum())).max())


def test_phantoms_of_published_figures_are_drawn_as_ever() -> None:
    image, organs = draw(0)
    published = "494b5dc17c7f7245397b44a5b0509493444f9ad12116140c4dcdeb8aa63f723b"
    assert hashlib.sha256(image.tobytes()).hexdigest() == published
    assert hashlib.sha256(organs.tobytes()).hexdigest().startswith("2e1717bccebf81536ef972f680f39b4b")


def test_extras_change_nothing_but_what_they_cover() -> None:
    rng = np.random.default_rng(5)
    image, organs = abdomen_phantom(rng, **SMALL)
    again = np.random.default_rng(5)
    more_image, more = abdomen_phantom(again, **SMALL, extras=EXTRAS)
    assert rng.uniform() == again.uniform()
    # the oesophagus and the rest lie amid the body: its wall, bones and surroundings are the same to the last unit
    for organ in (Organ.AIR, Organ.RIB, Organ.SPINE, Organ.AORTA, Organ.KIDNEY_LEFT):
        assert np.array_equal(organs == organ, more == organ), organ.name
    assert np.array_equal(image[:, :8], more_image[:, :8]) and not np.array_equal(image, more_image)
    # each extra has a generator of its own
    assert np.array_equal(draw(5, extras=[Organ.LIVER_TUMOUR])[1] == Organ.PANCREAS, organs == Organ.PANCREAS)
    with pytest.raises(ValueError, match=r"extras must be among \['PANCREAS', .*got .*SPLEEN"):
        draw(0, extras=[Organ.SPLEEN])


def test_tumours_lie_in_the_liver_darker_than_it_and_differ_in_size() -> None:
    volumes = []
    for seed in range(8):
        _, before = draw(seed)
        image, organs = draw(seed, extras=[Organ.LIVER_TUMOUR])
        tumour = organs == Organ.LIVER_TUMOUR
        assert np.array_equal(np.where(tumour, Organ.LIVER, organs), before), seed
        assert 0 < tumour.sum() < 0.4 * (before == Organ.LIVER).sum(), seed
        assert np.median(image[tumour]) < np.median(image[organs == Organ.LIVER]), seed
        assert best_threshold_dice(image, tumour) < 0.6, seed
        volumes.append(tumour.sum())
    assert max(volumes) > 4 * min(volumes)


def test_small_organs_lie_on_their_side_and_beside_their_neighbours() -> None:
    for seed in range(6):
        _, organs = draw(seed, extras=EXTRAS)
        at = {organ: np.argwhere(organs == organ).mean(0) / organs.shape for organ in Organ}
        adrenals = at[Organ.ADRENAL_RIGHT], at[Organ.ADRENAL_LEFT]
        assert adrenals[1][0] < at[Organ.SPINE][0] < adrenals[0][0], seed
        for adrenal, kidney in zip(adrenals, (at[Organ.KIDNEY_RIGHT], at[Organ.KIDNEY_LEFT]), strict=True):
            assert kidney[2] < adrenal[2], seed
        assert at[Organ.SPINE][1] < at[Organ.PORTAL_VEIN][1] < at[Organ.STOMACH][1], seed
        assert at[Organ.SPINE][1] < at[Organ.OESOPHAGUS][1] and at[Organ.PANCREAS][2] < at[Organ.OESOPHAGUS][2], seed
        assert at[Organ.SPLEEN][0] < at[Organ.PORTAL_VEIN][0] < at[Organ.LIVER][0], seed


def test_every_draw_has_its_organs_at_plausible_hounsfield_units() -> None:
    for seed in range(8):
        image, organs = draw(seed)
        assert image.shape == organs.shape == SMALL["size"]
        assert (image.dtype, organs.dtype) == (np.int16, np.uint8)
        assert (organs == Organ.SPLEEN).mean() > 0.002
        for organ, low, high in (
            (Organ.AIR, -1005, -995),
            (Organ.FAT, -120, -80),
            (Organ.MUSCLE, 20, 80),
            (Organ.SPINE, 200, 700),
            (Organ.LUNG, -900, -650),
            (Organ.LIVER, 30, 140),
            (Organ.SPLEEN, 20, 140),
            (Organ.KIDNEY_LEFT, 0, 150),
            (Organ.AORTA, 10, 160),
        ):
            assert low < np.median(image[organs == organ]) < high, (seed, organ.name)


def test_noise_is_that_of_a_ct() -> None:
    image, organs = draw(0)
    corner = image[:4, :4][organs[:4, :4] == Organ.AIR]
    assert 5 < corner.std() < 16  # air is cut at -1024
    assert 9 < image[organs == Organ.LIVER].std() < 60


def test_cases_differ_in_anatomy() -> None:
    spleens = [draw(seed)[1] == Organ.SPLEEN for seed in range(4)]
    assert max(2 * (a & b).sum() / (a.sum() + b.sum()) for i, a in enumerate(spleens) for b in spleens[:i]) < 0.9
    assert np.ptp([s.sum() for s in spleens]) > 0.1 * spleens[0].sum()


def test_no_threshold_finds_the_spleen() -> None:
    for seed in range(4):
        image, organs = draw(seed)
        assert best_threshold_dice(image, organs == Organ.SPLEEN) < 0.6


def test_best_threshold_dice_is_1_for_what_a_threshold_defines() -> None:
    image, _ = draw(0)
    assert best_threshold_dice(image, (image >= 50) & (image < 100)) == 1
