"""Pictures of executed notebooks in JupyterLab Light, Dark and on a narrow screen, for looking at.

python -m tests.browser.screenshots FOLDER [NOTEBOOK...]     (without names: 00, 01 and 09)
"""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.browser.lab import BROWSER, SWITCHES, Notebook, serve

LOOKS = {
    "light": ("light", 1280),
    "dark": ("dark", 1280),
    "narrow": ("light", 480),
    "narrow-dark": ("dark", 480),
}
HEIGHT = 1600  # pixels of a picture
NAMES = ("00_start_here", "01_data_blurring", "09_explore")
SCROLLED = "panel => { panel.scrollTop += 0.9 * panel.clientHeight; return panel.scrollTop }"


def photograph(page: Page, stem: Path) -> int:
    """Scroll through the notebook from its top; write `stem`-1.png, -2.png ...; returns how many."""
    panel = page.locator(".jp-WindowedPanel-outer").first
    for place in (10**6, 10**6, 0):  # until a cell was in view, its height is an estimate
        panel.evaluate("(panel, place) => { panel.scrollTop = place }", place)
        page.wait_for_timeout(500)
    places = [0]
    while len(places) < 2 or places[-1] != places[-2]:
        page.screenshot(path=f"{stem}-{len(places)}.png")
        places.append(panel.evaluate(SCROLLED))
        page.wait_for_timeout(500)
    return len(places) - 1


def main(folder: str, *names: str) -> None:
    """Run each notebook once and take its pictures in every look; prints what went wrong in it."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as root,
        serve(Path(root)) as server,
        sync_playwright() as playwright,
    ):
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=SWITCHES)
        for name in names or NAMES:
            page = chromium.new_page(viewport={"width": 1280, "height": HEIGHT})
            book = Notebook(page, server, f"{name}.ipynb")
            page.keyboard.press("Control+b")  # hides the list of files
            book.run_all(seconds=180)
            for look, (scheme, width) in LOOKS.items():
                page.emulate_media(color_scheme=scheme)
                page.set_viewport_size({"width": width, "height": HEIGHT})
                print(name, look, photograph(page, Path(folder) / f"{name}-{look}"), "pictures")
            print(name, "problems:", *(book.problems or ["none"]), sep="\n    ")
            page.close()
        chromium.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
