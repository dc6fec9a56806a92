# SPDX-License-Identifier: Apache-2.0

"""The page in a real browser without a window: a case is chosen, slices change, overlays go off, nothing is fetched."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from hybridmim_components.report import write_report

playwright = pytest.importorskip("playwright.sync_api")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
#: WebGL computed by the processor, as machines without a graphics card need it.
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BROWSER, reason="no Chromium: install it to test the report page in a browser"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as tools:
        started = tools.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a file; what it complains of or fetches ends the test."""
    complaints: list[str] = []
    opened = []

    def open_file(path: Path, **settings: Any) -> Any:
        page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **settings})
        opened.append(page)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.extend(_outside(request.url)))
        page.goto(path.as_uri())
        return page

    yield open_file
    for page in opened:
        page.close()
    assert not complaints


def _outside(url: str) -> list[str]:
    return [] if url.startswith(("file:", "data:", "blob:")) else [f"fetched {url}"]


def picture(page: Any) -> np.ndarray:
    """What the canvas shows, once it has stopped changing."""
    before = None
    for _ in range(40):
        page.wait_for_timeout(250)
        now = imread(io.BytesIO(page.locator("#canvas").screenshot()))[..., :3]
        if before is not None and np.array_equal(before, now) and now.std() > 0:
            return now
        before = now
    raise AssertionError("the canvas stays blank or never rests")


def coloured(image: np.ndarray) -> int:
    """Number of pixels with a colour: those of overlays."""
    return int((np.ptp(image, axis=-1) > 0.15).sum())


def test_a_case_is_drawn_its_slices_scroll_and_its_overlays_go_off(
    whole_run: Callable[..., Path], open_page: Callable[..., Any]
) -> None:
    page = open_page(write_report(whole_run()))
    assert not page.locator("#viewer").is_visible()
    page.click("#cases tbody tr:nth-child(2) button")
    drawn = picture(page)
    assert page.text_content("#case-name") == "case_002" and page.locator("#case-classes tbody tr").count() == 2
    assert coloured(drawn) > 1000
    # slices, by the wheel over the axial plane and by a slider
    page.check("[name=view][value=axial]")
    axial = picture(page)
    page.locator("#canvas").hover()
    page.mouse.wheel(0, 300)
    scrolled = picture(page)
    assert not np.array_equal(axial, scrolled)
    page.fill("[data-axis='2']", "9")
    assert not np.array_equal(picture(page), scrolled)
    # a slice with classes: slice 1 holds class 1 alone
    page.fill("[data-axis='2']", "1")
    whole_class = coloured(picture(page))
    assert whole_class > 1000
    page.uncheck("[data-value='1']")
    assert coloured(picture(page)) < 100
    page.check("[data-value='1']")
    page.check("[name=overlay][value=none]")
    bare = picture(page)
    assert coloured(bare) < 100
    # the errors are the one missed row of eight
    page.check("[name=overlay][value=errors]")
    assert 100 < coloured(picture(page)) < whole_class / 3
    page.check("[name=overlay][value=none]")
    page.select_option("#window", index=1)
    assert not np.array_equal(picture(page), bare)
    for view in ("coronal", "sagittal", "render", "all"):
        page.check(f"[name=view][value={view}]")
        assert picture(page).std() > 0


def test_the_table_sorts_and_the_keyboard_goes_from_case_to_case(
    whole_run: Callable[..., Path], open_page: Callable[..., Any]
) -> None:
    page = open_page(write_report(whole_run(cases=12)))

    def names() -> list[str]:
        return [text.strip() for text in page.locator("#cases tbody button").all_text_contents()]

    expected = [f"case_{number:03d}" for number in range(1, 13)]
    assert names() == expected
    page.click("#cases thead th:nth-child(2)")
    assert names() == expected[::-1]
    page.focus("#cases tbody tr:nth-child(1) button")
    page.keyboard.press("Enter")
    picture(page)
    page.keyboard.press("ArrowDown")
    page.wait_for_function("document.getElementById('case-name').textContent === 'case_011'")
    # curves: the middle of a plot tells the values of an epoch
    middle = """() => {
        const plot = document.querySelector(".figures svg");
        plot.scrollIntoView({block: "center"});
        const box = plot.getBoundingClientRect();
        return document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2).textContent;
    }"""
    assert page.evaluate(middle).startswith("epoch ")
    # previews: the last epoch is shown, then the first
    assert page.locator(".previews img:visible").get_attribute("data-epoch") == "30"
    page.fill(".previews input", "0")
    assert page.locator(".previews img:visible").get_attribute("data-epoch") == "1"


def test_a_case_without_image_and_one_with_four_channels(
    whole_run: Callable[..., Path], open_page: Callable[..., Any]
) -> None:
    run = whole_run(cases=2, classes=13, channels=4)
    (run / "evaluate" / "masks" / "case_001_seg.nii.gz").unlink()
    page = open_page(write_report(run))
    page.click("#cases tbody tr:nth-child(1) button")
    assert "No image" in (page.text_content("#case-note") or "") and not page.locator("#canvas").is_visible()
    assert not page.locator("#viewer fieldset").first.is_visible()
    page.click("#cases tbody tr:nth-child(2) button")
    first = picture(page)
    assert page.locator("#channels label").count() == 4 and page.locator("#classes label").count() == 13
    page.check("[name=channel][value='3']")
    picture(page)
    assert page.evaluate("report.nv.volumes.length") == 4
    shown = "[report.nv.volumes[0].cal_min, report.nv.volumes[0].cal_max]"
    chosen = "JSON.parse(document.getElementById('window').value)"
    assert page.evaluate(shown) == pytest.approx(page.evaluate(chosen))
    # another window stays chosen in another channel, with the other channel's values
    page.select_option("#window", index=1)
    page.check("[name=channel][value='0']")
    picture(page)
    assert page.locator("#window option:checked").text_content().startswith("bright")
    assert page.evaluate(shown) == pytest.approx(page.evaluate(chosen))
    assert coloured(first) > 1000


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_as_wide_as_the_screen_and_readable_in_light_and_dark(
    whole_run: Callable[..., Path], open_page: Callable[..., Any], width: int, scheme: str
) -> None:
    path = write_report(whole_run())
    page = open_page(path, viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.click("#cases tbody tr:nth-child(1) button")
    picture(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = (
        page.evaluate(f"getComputedStyle(document.body).{name}.match(/\\d+/g).map(Number)")
        for name in ("color", "backgroundColor")
    )
    assert abs(np.mean(ink) - np.mean(paper)) > 150
    assert (np.mean(paper) < 60) == (scheme == "dark")
    curve = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill.match(/\\d+/g).map(Number)")
    assert abs(np.mean(curve[:3]) - np.mean(paper)) > 100
    assert page.pdf().startswith(b"%PDF")


def test_a_browser_without_webgl_says_so(whole_run: Callable[..., Path], browser: Any) -> None:
    page = browser.new_page()
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    page.goto(write_report(whole_run()).as_uri())
    for row in (1, 2):
        page.click(f"#cases tbody tr:nth-child({row}) button")
        page.wait_for_function("document.getElementById('case-note').textContent.includes('needs WebGL 2')")
        assert not page.locator("#canvas").is_visible()
    page.close()
