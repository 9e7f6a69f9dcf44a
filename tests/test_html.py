# ruff: noqa
"""The report: one HTML file from a folder of figures, that needs nothing from elsewhere."""

import pytest

pytest.skip("follows the rewrite of s3e.report", allow_module_level=True)

import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s3e import __main__ as command_line
from s3e.report import check, html, numbers
from s3e.utils import S3EError, write_json
from tests.test_provenance import make


class Page(HTMLParser):
    """Addresses, texts for pictures, and the words of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.addresses, self.pictures, self.words = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self.addresses += [
            found[name] for name in ("src", "href", "data", "action", "srcset") if name in found
        ]
        self.pictures += [found] if tag == "img" else []

    def handle_data(self, data):
        self.words += data


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Figures of a made-up study inside a repository of their own."""
    root = tmp_path_factory.mktemp("made")
    return make(root / "figures" / "smoke", root / "store" / "smoke")


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    for name, place in (
        ("ROOT", tmp_path),
        ("RUNS", tmp_path / "runs"),
        ("NOTEBOOKS", tmp_path / "notebooks"),
    ):
        monkeypatch.setattr(html, name, place)
    return Path(shutil.copytree(made, tmp_path / "figures" / "smoke"))


def page(folder: Path) -> Page:
    return Page(html.build(folder).read_text(encoding="utf-8"))


def test_nothing_is_fetched_from_anywhere(folder):
    found = page(folder)
    text = (folder / "report.html").read_text()
    assert found.pictures and not {"script", "link", "iframe", "object", "embed"} & set(found.tags)
    assert all(address.startswith(("data:image/", "#")) for address in found.addresses), (
        found.addresses
    )
    assert "default-src 'none'" in text and not re.search(r"url\(|@import|https?://", text)
    assert len(text) < html.LIMIT


def test_links_inside_the_page_lead_somewhere(folder):
    found = page(folder)
    names = set(re.findall(r' id="(\w+)"', (folder / "report.html").read_text()))
    assert {address[1:] for address in found.addresses if address.startswith("#")} <= names


def test_figures_tables_notes_and_findings_are_inside(folder):
    found = page(folder)
    assert len(found.pictures) == 2 and all(picture["alt"] for picture in found.pictures)
    text = (folder / "report.html").read_text()
    for name in ("fig1_severities", "fig4_results"):
        assert html.picture((folder / f"{name}.png").read_bytes(), html.PICTURES) in text
    assert (
        "Table 4: ablation" in found.words and "17.50" in found.words and "A note." in found.words
    )
    assert (
        "S3E-Deblur restores better" in found.words
        and "Profile smoke: built-in scenes" in found.words
    )
    assert (
        "abc" in found.words
        and "origin:" not in found.words
        and "prefers-color-scheme: dark" in text
    )


def test_words_from_files_are_text_not_markup(folder):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["context"] = "<b>Profile</b> & more"
    manifest["files"]["fig4_results.png"]["about"] = 'a "figure" <i>'
    write_json(path, manifest)
    table = folder / "table4_ablation.md"
    table.write_text(table.read_text().replace("A note.", "A <script>note</script>."))
    found = page(folder)
    assert "<b>Profile</b> & more" in found.words and "A <script>note</script>." in found.words
    assert {"b", "i", "script"}.isdisjoint(found.tags) and 'a "figure" <i>' in [
        img["alt"] for img in found.pictures
    ]


def test_notebooks_are_linked_as_far_as_they_are_there(folder, tmp_path, monkeypatch):
    assert not [address for address in page(folder).addresses if "ipynb" in address]
    run = tmp_path / "runs" / "smoke" / "05_co_training" / "full-s0" / "notebook.ipynb"
    for path in (run, tmp_path / "notebooks" / "05_co_training.ipynb"):
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    links = [address for address in page(folder).addresses if "ipynb" in address]
    assert {(folder / link).resolve() for link in links} == {
        run,
        tmp_path / "notebooks" / "05_co_training.ipynb",
    }
    assert not any(link.startswith("/") for link in links)
    monkeypatch.setattr(
        html, "ROOT", tmp_path / "elsewhere"
    )  # no path of this machine outside the repository
    assert not [address for address in page(folder).addresses if "ipynb" in address]


def test_numbers_of_another_kind_are_refused_and_none_are_needed(folder):
    (folder / "numbers.csv").write_text("name,mean\nx,1\n")
    with pytest.raises(S3EError, match="numbers.csv has other columns"):
        html.build(folder)
    for name in ("csv", "md", "tex"):
        (folder / f"numbers.{name}").unlink()
    assert numbers.read(folder) == {} and "has no numbers.csv" in page(folder).words


def test_large_pictures_become_smaller():
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    assert html.picture(buffer.getvalue(), 10**6).startswith("data:image/png")
    small = html.picture(buffer.getvalue(), 30_000)
    assert small.startswith("data:image/jpeg") and len(small) < 41_000


def test_a_report_that_would_be_too_large_is_refused(folder, monkeypatch):
    monkeypatch.setattr(html, "LIMIT", 1000)
    with pytest.raises(S3EError, match="would be larger than"):
        html.build(folder)
    assert not (folder / "report.html").exists()


def test_check_names_an_edited_and_an_outdated_report(folder):
    html.build(folder)
    assert list(check.broken(folder)) == []
    path = folder / "report.html"
    text = path.read_text()
    path.write_text(text.replace("17.50", "18.50"))
    assert [
        line for line in check.broken(folder) if "report.html: edited since it was built" in line
    ]
    path.write_text(text)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    assert [
        line for line in check.broken(folder) if "report.html: built from another manifest" in line
    ]


def test_command_line(folder, tmp_path, capsys):
    assert command_line.main(["report", "build", str(folder)]) == 0
    assert "report.html" in capsys.readouterr().out
    assert command_line.main(["report", "build", str(tmp_path)]) == 2
    assert "has no manifest.json" in capsys.readouterr().err
    (folder / "fig1_severities.png").unlink()
    assert command_line.main(["report", "build", str(folder)]) == 2
    assert "fig1_severities.png is missing" in capsys.readouterr().err


def test_same_folder_same_bytes(folder):
    assert html.build(folder).read_bytes() == html.build(folder).read_bytes()


def test_figures_stand_in_the_order_of_their_numbers():
    names = [
        "fig10_closing.png",
        "fig2_framework.png",
        "tableA1_definitions.md",
        "table7_x.md",
        "manifest.json",
    ]
    assert html._named(dict.fromkeys(names), r"fig.*\.png") == [
        "fig2_framework.png",
        "fig10_closing.png",
    ]
    assert html._named(dict.fromkeys(names), r"table.*\.md") == [
        "table7_x.md",
        "tableA1_definitions.md",
    ]
