# SPDX-License-Identifier: Apache-2.0

"""Curves of the report page as SVG: what a browser shows where the pointer is."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from hybridmim_components.report.curves import curves_svg

SVG = "{http://www.w3.org/2000/svg}"


def strips(svg: str) -> list[tuple[float, float, list[str]]]:
    """Left and right edge of each strip with a title, and the title's lines."""
    found = []
    for rect in ET.fromstring(svg).iter(f"{SVG}rect"):
        title = rect.find(f"{SVG}title")
        if title is not None:
            left = float(rect.attrib["x"])
            found.append((left, left + float(rect.attrib["width"]), (title.text or "").splitlines()))
    return found


def test_each_epoch_shows_its_values_where_its_points_are() -> None:
    rows = [{"epoch": str(epoch), "a": str(1 / epoch), "b": str(epoch)} for epoch in range(1, 6)]
    svg = curves_svg({"a <&> b": (rows, "a"), "$late": (rows[3:], "b")}, "loss", (0.5, "guessing"))
    found = strips(svg)
    assert [lines[0] for _, _, lines in found] == [f"epoch {epoch}" for epoch in range(1, 6)]
    assert found[2][2] == ["epoch 3", "a <&> b: 0.3333"]
    assert found[3][2] == ["epoch 4", "a <&> b: 0.25", "$late: 4"]
    points = [
        float(use.attrib["x"]) for use in ET.fromstring(svg).iter(f"{SVG}use") if "fill: #0072b2" in str(use.attrib)
    ]
    assert len(points) > 5  # five points, and one in the legend
    for point, (left, right, _) in zip(points, found, strict=False):
        assert left < point < right
    assert all(left[1] == pytest.approx(right[0], abs=0.11) for left, right in zip(found, found[1:], strict=False))


def test_one_epoch_takes_the_whole_width() -> None:
    ((left, right, lines),) = strips(curves_svg({"a": ([{"epoch": "7", "v": "0.25"}], "v")}, "Dice"))
    assert right - left > 300 and lines == ["epoch 7", "a: 0.25"]


def test_curves_without_values_have_no_strips() -> None:
    assert strips(curves_svg({"a": ([], "v")}, "Dice")) == []
