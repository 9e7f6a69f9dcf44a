"""A study on photographs: what training may have known of its test photos, guesses, and what may be
published.
"""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from s3e.captions.tree import NULL, TreeVocabulary
from s3e.config import load_config
from s3e.data.corpus import Split
from s3e.evaluation import score
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


def test_figures_of_private_photos_are_drawn_from_public_ones():
    empty = dict.fromkeys(("extents", "psnr", "words", "trees", "targets", "label_maps"))
    sharp = np.zeros((1, 32, 32, 3), np.uint8)
    own = Split("val", ["a"], [["a cat"]], [[None]], sharp, {}, **empty)
    labels = TreeVocabulary([NULL, "cat"], [NULL])
    corpus = SimpleNamespace(val=own, labels=labels)
    assert score.shown(corpus, load_config("smoke")) is own
    public = score.shown(corpus, load_config("smoke", overrides={"pictures": "public"}))
    assert public.ids == ["astronaut", "chelsea", "coffee", "rocket"]
    assert len(public.captions) == len(public.sharp) == 4
    batch = public.batch(public.rows("severe"), "severe")
    assert batch.blurred.shape == batch.sharp.shape and not batch.sharp.equal(batch.blurred)
    assert (batch.told == 1).sum() == 1  # the cat, of its first caption
