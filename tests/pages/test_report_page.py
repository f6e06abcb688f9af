"""The reports in a real browser: at three widths, in light and dark, by keyboard, printed."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image

from budgerigar.reports.comparison import write_comparison_report
from budgerigar.reports.printing import print_page
from budgerigar.reports.run import write_run_report
from recorded import (
    comparison_of_recipes,
    hostile_comparison,
    hostile_results,
    results_of_a_run,
)

pytestmark = pytest.mark.page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LIGHT, DARK = "1", "0"
WIDTHS = (360, 768, 1200)
TABLES = {"run": 11, "comparison": 15}
"""Of a plain report of each kind."""

# A frame has any width; a headless window none below 500 pixels. The page in it stays as it is:
# its policy forbids scripts, so that the frame's owner measures it.
FRAME = """<!doctype html><meta charset="utf-8"><style>body {{ margin: 0 }}
iframe {{ display: block; width: {width}px; height: {height}px; border: 0 }}</style>
<iframe srcdoc="{page}"></iframe>
<script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const inBox = (one) => one.parentElement.closest(".scroll, svg");
  const wide = [...page.body.querySelectorAll("*")].filter(
    (one) => !inBox(one) && one.getBoundingClientRect().right > root.clientWidth + 0.5);
  const seen = {{
    scroll: root.scrollWidth, client: root.clientWidth, height: root.scrollHeight,
    wide: wide.map((one) => one.tagName + "." + one.className).slice(0, 5),
    boxes: [...page.querySelectorAll(".scroll")].map(
      (one) => [one.scrollWidth, one.clientWidth, getComputedStyle(one).overflowX]),
    alerts: page.querySelectorAll("script").length,
    reached: [...page.querySelectorAll(".scroll, a")].every((one) => {{
      one.focus(); return page.activeElement === one; }}),
    marked: [...page.querySelectorAll(".scroll, a")].every((one) => {{
      one.focus({{focusVisible: true}});
      return getComputedStyle(one).outlineStyle !== "none"; }}),
    pictures: [...page.querySelectorAll("svg")].filter(
      (one) => !one.closest("[role=img][aria-label]")).length,
  }};
  document.body.dataset.seen = JSON.stringify(seen);
}});
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    pytest.skip("page tests need a browser: none of " + ", ".join(BROWSERS) + " is on PATH")


def look(browser: str, folder: Path, url: str, *args: str) -> str:
    quiet = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000"),
    )
    done = subprocess.run(
        [browser, *quiet, *args, url], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def write(content: dict[str, Any], folder: Path) -> Path:
    """Writes the report of a run or of a comparison."""
    path = folder / "report.html"
    if "verdict" in content:
        write_comparison_report(content, path)
    else:
        write_run_report(content, path)
    return path


def measured(browser: str, folder: Path, content: dict[str, Any], width: int) -> dict[str, Any]:
    """The page's sizes in a frame of some width."""
    write(content, folder)
    page = html.escape((folder / "report.html").read_text(encoding="utf-8"), quote=True)
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(width=width, height=900, page=page), encoding="utf-8")
    shown = look(browser, folder, frame.as_uri(), "--window-size=1400,900", "--dump-dom")
    # The frame's own page stands in the document too, as an attribute: the last one counts.
    found = re.findall(r'data-seen="([^"]*)"', shown)
    assert found, shown[-2000:]
    seen: dict[str, Any] = json.loads(html.unescape(found[-1]))
    return seen


def pixels_of(browser: str, folder: Path, width: int, height: int, scheme: str) -> np.ndarray:
    shot = folder / f"page-{scheme}.png"
    look(
        *(browser, folder, (folder / "report.html").as_uri()),
        *(f"--screenshot={shot}", f"--window-size={width},{height}", "--hide-scrollbars"),
        f"--blink-settings=preferredColorScheme={scheme}",
    )
    return (image.imread(shot)[:, :, :3] * 255).round().astype(int)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "make", [results_of_a_run, hostile_results, comparison_of_recipes, hostile_comparison]
)
def test_nothing_overflows_and_everything_is_reached_by_keyboard(browser, tmp_path, make, width):
    content = make()
    seen = measured(browser, tmp_path, content, width)
    assert seen["scroll"] <= seen["client"] <= width
    assert seen["wide"] == []
    assert seen["height"] > 3000
    assert seen["alerts"] == seen["pictures"] == 0
    assert len(seen["boxes"]) == TABLES["comparison" if "verdict" in content else "run"]
    for inner, outer, overflow in seen["boxes"]:
        assert outer <= width
        assert inner <= outer or overflow == "auto"
    assert seen["reached"]
    assert seen["marked"]


@pytest.mark.parametrize("make", [results_of_a_run, comparison_of_recipes])
def test_plain_tables_need_no_scrolling_on_a_desk(browser, tmp_path, make):
    seen = measured(browser, tmp_path, make(), 1200)
    assert all(inner <= outer for inner, outer, _ in seen["boxes"])


def test_seventy_classes_scroll_in_their_own_box(browser, tmp_path):
    results = results_of_a_run()
    names = [f"intent number {number}" for number in range(70)]
    results["classes"] = names
    for name in ("train", "validation", "test"):
        results["data"][name]["classes"] = dict.fromkeys(names, 5)
    for name in ("validation", "test"):
        score = {"precision": 1.0, "recall": 1.0, "f1": 1.0, "texts": 5}
        results[name]["classes"] = [{**score, "name": one} for one in names]
        results[name]["confusion"] = (5 * np.eye(70, dtype=int)).tolist()
    seen = measured(browser, tmp_path, results, 360)
    assert seen["scroll"] <= 360
    assert seen["wide"] == []
    assert max(inner for inner, _, _ in seen["boxes"]) > 3000


@pytest.mark.parametrize("make", [results_of_a_run, comparison_of_recipes])
def test_the_screenshots_have_content_in_light_and_dark(browser, tmp_path, make):
    write(make(), tmp_path)
    light = pixels_of(browser, tmp_path, 1200, 1600, LIGHT)
    dark = pixels_of(browser, tmp_path, 1200, 1600, DARK)
    assert light.shape == dark.shape == (1600, 1200, 3)
    assert light[5, 5].min() > 230
    assert dark[5, 5].max() < 50
    for pixels in (light, dark):
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
        # Ink in every part of the height.
        parts = np.array_split(pixels[100:], 5)
        assert all(part.std() > 5 for part in parts)
    # The curves keep their white card.
    assert (dark.min(axis=2) == 255).mean() > 0.05


@pytest.mark.parametrize("make", [hostile_results, hostile_comparison])
def test_the_page_asks_for_nothing(browser, tmp_path, make):
    page = write(make(), tmp_path).read_text(encoding="utf-8")
    assert not re.search(r"""<[^>]*\b(src|href|srcset)\s*=\s*["']?\s*(https?:)?//""", page)
    log = tmp_path / "net.json"
    look(
        browser, tmp_path, (tmp_path / "report.html").as_uri(), "--dump-dom", f"--log-net-log={log}"
    )
    asked = log.read_text(encoding="utf-8", errors="replace")
    assert "example.invalid" not in asked


def test_the_page_is_printed_with_its_links_on_several_sheets(browser, tmp_path):
    page = write(comparison_of_recipes(), tmp_path)
    print_page(page, tmp_path / "report.pdf")
    content = (tmp_path / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    sheets = len(re.findall(rb"/Type\s*/Page\b", content))
    assert 3 <= sheets <= 30
    # Printed on white, with the words as text and not as a picture.
    assert b"/Font" in content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.pdf"]
