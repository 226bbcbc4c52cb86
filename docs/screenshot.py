"""A picture of a run's page for the documentation: `python docs/screenshot.py RUN_HTML OUT.png`."""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def picture(page: Path, out: Path, width: int = 1440, height: int = 1500) -> None:
    """Takes the upper part of a page, once its plots are drawn.

    Args:
        page: what `paretune report` wrote. out: a PNG file.
        width, height: of the picture, pixels.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
        tab.goto(page.resolve().as_uri())
        tab.wait_for_selector("html[data-ready]", timeout=90_000)
        tab.screenshot(path=str(out))
        browser.close()


if __name__ == "__main__":
    picture(Path(sys.argv[1]), Path(sys.argv[2]))
