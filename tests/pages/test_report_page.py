"""The report in a real browser, at the width of a phone and of a desk."""

from __future__ import annotations

import copy
import html
import re
import shutil
import subprocess

import pytest

from budgerigar import report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PROBE = """<script>addEventListener("load", () => {
  const page = document.documentElement;
  page.dataset.probe = page.scrollWidth + " " + page.clientWidth + " " + page.scrollHeight;
});</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    pytest.skip("page tests need a browser: none of " + ", ".join(BROWSERS) + " is here")


def look(browser, tmp_path, url, *args) -> str:
    quiet = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000"),
    )
    done = subprocess.run(
        [browser, *quiet, *args, url], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


@pytest.mark.page
@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_overflows(browser, tiny_run, tmp_path, width):
    results = copy.deepcopy(tiny_run.results)
    results["test"]["confident_errors"][0]["text"] = "x" * 2000
    results["notes"] = ["a note with a long path " + "y" * 400]
    report.write_report(results, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    # A frame has any width; a headless window none below 500 pixels.
    inner = html.escape(page.replace("</body>", PROBE + "</body>"), quote=True)
    outer = (
        f'<iframe id="f" style="width:{width}px;height:900px;border:0" srcdoc="{inner}"></iframe>'
        '<script>setTimeout(() => { document.body.dataset.seen = document.getElementById("f")'
        ".contentDocument.documentElement.dataset.probe; }, 1000);</script>"
    )
    (tmp_path / "frame.html").write_text(outer)
    shown = look(browser, tmp_path, (tmp_path / "frame.html").as_uri(), "--dump-dom")
    seen = re.search(r'data-seen="(\d+) (\d+) (\d+)"', shown)
    assert seen, shown[-2000:]
    scroll_width, client_width, height = map(int, seen.groups())
    assert scroll_width <= client_width <= width
    assert height > 1000


@pytest.mark.page
def test_the_screenshot_is_a_page_with_content(browser, tiny_run, tmp_path):
    import numpy as np
    from matplotlib import image

    shot = tmp_path / "page.png"
    url = (tiny_run.folder / "report.html").as_uri()
    look(browser, tmp_path, url, f"--screenshot={shot}", "--window-size=1200,1600")
    pixels = image.imread(shot)[:, :, :3]
    assert pixels.shape[:2] == (1600, 1200)
    assert len(np.unique((pixels * 255).astype(int).reshape(-1, 3), axis=0)) > 50
