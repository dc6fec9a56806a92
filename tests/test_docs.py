# SPDX-License-Identifier: Apache-2.0

"""The documentation: every link leads somewhere, the site builds without a warning, and code draws its figures."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILT = ROOT / "docs" / "_build"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")),
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if BUILT not in page.parents),
]


def prose(page: Path) -> str:
    """A page without its code."""
    without_blocks = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "code", without_blocks)


def anchors(page: Path) -> set[str]:
    """What the headings of a page can be linked to by."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> list[str]:
    """Relative links of a page that lead to no file, or to no heading of it."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert dead_links(page) == []


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A heading, here\n\n```\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[1](there.md#a-heading-here) [2](https://a.org/b.md) `[3](code.md)` [4](away.md)\n"
        "![5](away.png) [6](there.md#no-heading) [`7`](#nowhere)\n```\n[8](block.md)\n```\n"
    )
    assert dead_links(page) == ["away.md", "away.png", "there.md#no-heading", "#nowhere"]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for package in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(package, reason=f"needs {package}: requirements-docs.lock")
    options = ["-W", "--keep-going", "-q", "-b", "html", "-d", str(tmp_path / "doctrees")]
    command = [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    method = (tmp_path / "site" / "reference" / "method.html").read_text(encoding="utf-8")
    assert 'id="hybridmim_components.method.masking.sample_mask"' in method
    # shapes keep their star, which is no emphasis, and included files lead to each other's pages
    assert "(B, 1, *image_size)" in method
    limits = (tmp_path / "site" / "explanation" / "limits.html").read_text(encoding="utf-8")
    assert 'href="measurements.html"' in limits


@pytest.mark.slow
def test_the_figures_are_drawn_by_code(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "docs" / "draw_method.py"), "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    drawn = sorted(path.name for path in tmp_path.glob("*.png"))
    assert drawn == sorted(path.name for path in (ROOT / "docs" / "explanation").glob("*.png"))
    assert all(20_000 < path.stat().st_size < 150_000 for path in tmp_path.glob("*.png"))
