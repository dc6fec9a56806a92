# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

import pytest
from trained_weights import link, measured, require_small

BUNDLES = Path(__file__).parents[2] / "bundles"
SUMMARY = "class,dice,hd95_mm,cases,absent_cases,figures\nanterior,0.81234,1.5,80,0,{0}\nmean,0.8,2,80,0,{0}\n"


def test_what_was_measured_goes_into_metadata_and_readme(tmp_path: Path) -> None:
    (tmp_path / "summary.csv").write_text(SUMMARY.format("unseen"))
    (tmp_path / "model.pt").write_bytes(b"weights")
    values = measured(tmp_path / "summary.csv", tmp_path / "model.pt", trained_on=120, tested_on=80, epochs=20)
    assert values["eval_metrics"] == {
        "dice_anterior": 0.8123,
        "dice_mean": 0.8,
        "hd95_mm_anterior": 1.5,
        "hd95_mm_mean": 2.0,
    }
    assert "| Dice | 0.812 | 0.800 |" in values["performance"] and "80 cases" in values["performance"][0]
    assert "120 cases" in values["weights_statement"]


@pytest.mark.parametrize("figures", ["validation", "pretraining", "training", "unknown"])
def test_figures_of_seen_patients_are_refused(figures: str, tmp_path: Path) -> None:
    (tmp_path / "summary.csv").write_text(SUMMARY.format(figures))
    with pytest.raises(ValueError, match=f"test patients must be unseen, .* has figures of .'{figures}'"):
        measured(tmp_path / "summary.csv", tmp_path / "model.pt", 120, 80, 20)


def test_a_network_too_large_for_a_repository_is_refused_before_it_is_trained() -> None:
    require_small(BUNDLES / "hybridmim_msd_hippocampus_unet_segmentation")
    with pytest.raises(ValueError, match=r"at most 8000000 bytes, got \d+ of hybridmim_btcv_unet_segmentation"):
        require_small(BUNDLES / "hybridmim_btcv_unet_segmentation")


def test_cases_are_linked_in_the_layout_of_the_decathlon(tmp_path: Path) -> None:
    items = [{key: str(tmp_path / key / "a.nii.gz") for key in ("image", "label")}]
    for key in ("image", "label"):
        (tmp_path / key).mkdir()
        (tmp_path / key / "a.nii.gz").write_text(key)
    for _ in range(2):  # a second start changes nothing
        link(items, tmp_path / "train")
    assert (tmp_path / "train" / "imagesTr" / "a.nii.gz").read_text() == "image"
    assert (tmp_path / "train" / "labelsTr" / "a.nii.gz").read_text() == "label"
