# SPDX-License-Identifier: Apache-2.0

"""The table of what works where: how it is written, and that what fails is told and ends with status 1."""

from __future__ import annotations

from pathlib import Path

import pytest
import support_table
from export_bundle import export_bundle
from small_bundles import small_bundle

OK = dict.fromkeys(support_table.COLUMNS, "ok")


@pytest.mark.parametrize(("cells", "status"), [(OK, 0), (OK | {"ONNX": "ValueError: a | b"}, 1)])
def test_table_and_status_tell_what_failed(
    cells: dict[str, str], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support_table, "support", lambda names, work: dict.fromkeys(names, cells))
    output = tmp_path / "support.md"
    assert support_table.main(["--bundles", "btcv_unet", "--output", str(output)]) == status
    text = output.read_text()
    row = next(line for line in text.splitlines() if line.startswith("| btcv_unet |"))
    assert row.count("ok") == len(OK) - status and ("a \\| b" in row) == bool(status)
    assert "networks are shrunk" in text and "weights are untrained" in text and "monai 1.6" in text


def test_a_bundle_not_tried_is_no_success() -> None:
    assert support_table.markdown({"btcv_unet": {}}).count("not tried") == len(OK)


@pytest.mark.slow
def test_checks_tell_why_a_bundle_fails(tmp_path: Path) -> None:
    folder = export_bundle(*small_bundle(tmp_path, "msd_spleen_unet"), tmp_path / "exported", "phantoms")
    (folder / "models" / "model.pt").unlink()
    (folder / "scripts" / "workflow" / "preflight.py").unlink()
    (folder / "LICENSE").unlink()
    cells = support_table.format_cells(folder)
    assert set(cells) == {"TorchScript", "ONNX", "OpenVINO"}
    assert all(f"no weights of a fine-tuned network at {folder}" in cell for cell in cells.values()), cells
    cell = support_table.zoo_cells(folder)[support_table.ZOO]
    assert cell.startswith(f"files: FileNotFoundError: no weights at {folder}") and "train: " in cell


def test_committed_table_has_a_row_for_each_bundle() -> None:
    lines = (support_table.ROOT / "docs" / "support.md").read_text().splitlines()
    assert [name for name in support_table.NAMES if sum(line.startswith(f"| {name} |") for line in lines) != 1] == []
