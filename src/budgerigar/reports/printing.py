"""A page -> PDF, by a browser without a window."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from budgerigar.errors import RunError
from budgerigar.files import whole_file

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
LONGEST_SECONDS = 120


def print_page(page: Path, pdf: Path) -> None:
    """Prints a page as the browser would on paper.

    Args:
        page: an HTML file.
        pdf: the file to write.

    Raises:
        RunError: when no browser is installed, it prints nothing, or `pdf` cannot be written.
    """
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise RunError(
            f"{pdf} was not written",
            why=f"it takes a browser, and none of {', '.join(BROWSERS)} is on PATH",
            remedy=f"install chromium, or open {page} in any browser and print it",
        )
    with whole_file(pdf) as temporary, tempfile.TemporaryDirectory() as profile:
        command = [
            *(browser, "--headless", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", f"--user-data-dir={profile}"),
            # As root the browser does not start inside its sandbox; the page has no script.
            *(("--no-sandbox",) if os.geteuid() == 0 else ()),
            *("--no-pdf-header-footer", f"--print-to-pdf={temporary.absolute()}"),
            page.absolute().as_uri(),
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=LONGEST_SECONDS, check=False
            )
            said = done.stderr.strip().splitlines()[-1:] if done.returncode else []
        except (OSError, subprocess.TimeoutExpired) as error:
            said = [str(error)]
        if said or not temporary.exists():
            raise RunError(
                f"{pdf} was not written",
                why=f"{browser} could not print: {' '.join(said) or 'it wrote nothing'}",
                remedy=f"open {page} in any browser and print it",
            )
