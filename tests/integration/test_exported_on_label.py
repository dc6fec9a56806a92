# SPDX-License-Identifier: Apache-2.0

"""Exported bundles on the real MONAI Label server, where the package cannot be imported."""

from __future__ import annotations

from pathlib import Path

import pytest
from export_bundle import export_bundle
from small_bundles import small_bundle
from support_table import label_cells


@pytest.mark.full
@pytest.mark.parametrize(
    ("dataset", "backbones"), [("brats2020", ["unet"]), ("btcv", ["swinunetr", "unet"])], ids=["brats2020", "btcv"]
)
def test_annotators_use_exported_bundles(
    dataset: str, backbones: list[str], label_environment: None, tmp_path: Path
) -> None:
    bundles = [
        export_bundle(*small_bundle(tmp_path / "small", f"{dataset}_{name}"), tmp_path / "exported", "phantoms")
        for name in backbones
    ]
    cells = label_cells(dataset, bundles, tmp_path / "label")
    log = (tmp_path / "label" / "server.log").read_text()[-5000:]
    assert set(cells) == {bundle.name for bundle in bundles}
    assert [set(own.values()) for own in cells.values()] == [{"ok"}] * len(bundles), f"{cells}\n{log}"


@pytest.mark.full
def test_what_the_server_cannot_do_is_told(label_environment: None, tmp_path: Path) -> None:
    """The bundle's code is what trains: without a part of it training fails, and inference goes on."""
    bundle = export_bundle(*small_bundle(tmp_path, "msd_spleen_unet"), tmp_path / "exported", "phantoms")
    (bundle / "scripts" / "workflow" / "preflight.py").unlink()
    cells = label_cells("msd_spleen", [bundle], tmp_path / "label")[bundle.name]
    assert cells["Label train"].startswith("LabelServerError: training ended with status ERROR")
    assert (cells["Label infer"], cells["Label infer again"]) == ("ok", "ok")
