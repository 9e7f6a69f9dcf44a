"""A study on photographs: what training may have known of its test photos, guesses, and what may be
published.
"""

import json
import re

import pytest

from s3e.config import load_config
from s3e.utils import ROOT
from tests.conftest import PHOTOS

FIGURES = ROOT / "figures" / "photos"


@pytest.mark.parametrize("profile", ["photos", "photos-cpu"])
def test_profiles_of_photographs_show_public_pictures(profile, tmp_path):
    config = load_config(profile, str(tmp_path))
    assert config.pictures == "public" and config.figures == "photos" and len(config.seeds) >= 3
    assert {"baseline", "full", "no_semantics_loss", "vector_nodes", "shuffled", "oracle"} <= set(
        config.variants
    )
    assert not {"baseline", "full", "no_semantics_loss", "shuffled"} & set(config.one_seed)


@pytest.mark.skipif(
    not (FIGURES / "manifest.json").is_file(), reason="no study on photographs is committed"
)
def test_published_figures_show_no_photo_and_no_caption_of_the_data():
    names = {path.stem for path in FIGURES.iterdir()}
    assert not names & {"fig7_captions", "fig11_failures", "fig13_word_attention"}
    if not PHOTOS.is_dir():
        pytest.skip(f"{PHOTOS} is not there: its captions cannot be looked for")
    files = [
        json.loads(path.read_text()) for path in (PHOTOS / "annotations").glob("captions_*.json")
    ]
    captions = {_plain(item["caption"]) for content in files for item in content["annotations"]}
    for path in (*FIGURES.iterdir(), ROOT / "README.md"):
        if path.suffix in {".csv", ".md", ".tex", ".json", ".html"}:
            found = {
                _plain(line) for line in re.split(r"[\n|<>\",;:]", path.read_text(encoding="utf-8"))
            }
            assert not {text for text in found & captions if len(text.split()) > 3}, path.name


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9'-]+", text.lower()))
