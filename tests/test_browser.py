"""The notebooks as people use them: JupyterLab in a real browser, every cell run, every widget
touched.
"""

import os

import nbformat
import pytest

REQUIRED = (
    os.environ.get("S3E_BROWSER") == "required"
)  # then a browser that is missing fails instead of skipping
if not REQUIRED:
    pytest.importorskip("playwright", reason="playwright is not installed (pip install -e .[dev])")

from playwright.sync_api import sync_playwright  # noqa: E402

from tests.browser.lab import BROWSER, SWITCHES, Notebook, serve  # noqa: E402

NONE = "no Chromium here (Debian: apt-get install chromium)"
pytestmark = pytest.mark.skipif(BROWSER is None and not REQUIRED, reason=NONE)

LABORATORY, TREES, OWN = "widgets.shake,", "examples.trees,", "own.restored,"  # cells of 09
FAULTS = {
    "written to stderr": "import sys; print('written to stderr', file=sys.stderr)",
    "told the console": (
        "from IPython.display import Javascript\nJavascript('console.error(`told the console`)')"
    ),
    "a script failed": "Javascript('setTimeout(() => { throw Error(`a script failed`) })')",
    "in a callback": (
        "import ipywidgets\nbox = ipywidgets.Text(description='name')\n"
        "box.observe(lambda change: {}['in a callback'], 'value')\nbox"
    ),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def open_notebook(lab, chromium):
    """A function that opens a notebook of the server in a page of its own, 1280 x 900 pixels."""
    return lambda name: Notebook(
        chromium.new_page(viewport={"width": 1280, "height": 900}), lab, name
    )


def write_book(folder, name, cells):
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata=kernel
    )
    nbformat.write(book, folder / name)


def test_every_kind_of_fault_is_seen(lab, open_notebook):
    write_book(lab.folder, "faults.ipynb", [*FAULTS.values(), "1 / 0", "2"])
    book = open_notebook("faults.ipynb")
    book.run_all(seconds=600)
    book.page.get_by_label("name").fill("typed")
    book.wait_for(lambda: len(book.problems) > len(FAULTS))
    for fault in (*FAULTS, "division by zero"):
        assert any(fault in problem for problem in book.problems), (fault, book.problems)
    assert book.shown("stderr") == 2


@pytest.mark.parametrize(("name", "pictures"), [("00_start_here", 3), ("01_data_blurring", 5)])
def test_notebook_runs_in_the_browser(open_notebook, name, pictures):
    book = open_notebook(f"{name}.ipynb")
    book.run_all(seconds=600)
    check(book)
    assert book.shown("png") >= pictures
    book.page.close()


def quiet(book):
    """Nothing went wrong in the kernel, in a callback or in the browser."""
    assert not book.problems and not book.shown("stderr")


def check(book):
    """`quiet`, and no widget reports a mistake."""
    quiet(book)
    assert not book.page.locator(".jp-OutputArea [role=alert]").all_inner_texts()


@pytest.fixture(scope="module")
def explore(open_notebook):
    """Notebook 09 with all cells run."""
    book = open_notebook("09_explore.ipynb")
    book.run_all(seconds=600)
    check(book)
    return book


def test_every_part_has_a_static_figure_before_its_widget(explore):
    cells = explore.page.locator(".jp-CodeCell")
    kinds = cells.evaluate_all(
        "cells => cells.map(cell => cell.querySelector('.jupyter-widgets') ? 'widget' :"
        " cell.querySelector('.jp-OutputArea-output[data-mime-type=\"image/png\"]') ? 'figure'"
        " : '')"
    )
    parts = "".join(kind[:1] for kind in kinds).split("w")
    assert len(parts) == 5 and all("f" in before for before in parts[:4]), kinds


def renewed(book, code, before, count):
    """The pictures of a cell as soon as they are all there and `count` of them are others than
    `before`.
    """

    def ready():
        now = book.pictures(code)
        return len(now) == len(before) and count == sum(map(str.__ne__, now, before))

    assert book.wait_for(ready)
    check(book)
    return book.pictures(code)


def test_a_slider_of_the_blur_laboratory_changes_its_drawing(explore):
    before = explore.pictures(LABORATORY)
    explore.steer(LABORATORY, "length", "PageUp")
    assert len(renewed(explore, LABORATORY, before, 1)) == 1


def test_another_photo_changes_what_the_tree_browser_shows(explore):
    before = explore.pictures(TREES)
    explore.cell(TREES).get_by_label("severity").select_option("sharp")
    assert len(renewed(explore, TREES, before, 2)) == 2


def test_a_photo_of_ones_own_is_restored_blurred_first(explore):
    restored, _ = explore.pictures(OWN)
    explore.cell(OWN).get_by_label("severity").select_option("severe")

    def ready():
        now = explore.pictures(OWN)
        return len(now) == 2 and now[0] != restored

    assert explore.wait_for(ready)
    check(explore)
