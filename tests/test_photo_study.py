"""A study on photographs: what training may have known of its test photos, guesses, and what may be
published.
"""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from s3e.captions.tree import IGNORE
from s3e.config import load_config
from s3e.data.corpus import load_corpus
from s3e.data.prepare import prepare_corpus
from s3e.evaluation import collect, gains
from s3e.utils import ROOT
from tests.conftest import PHOTOS

FIGURES = ROOT / "figures" / "photos"


@pytest.fixture
def photos(corpus):
    """A corpus whose second test photo is a training photo's mirror image; whose ids are
    numbers.
    """
    copy = load_corpus(corpus.folder)
    test = np.array(copy.test.sharp)
    test[1] = copy.train.sharp[3][:, ::-1]
    copy.test.sharp = test
    copy.train.ids = [str(100_000 * (i + 1)) for i in range(len(copy.train))]
    copy.test.ids = [str(100_000 * (i + 1) + 50_000) for i in range(len(copy.test))]
    copy.test.ids[4] = "200007"
    copy.test.captions = [["quite new words"] for _ in copy.test.ids]
    copy.test.captions[6] = [copy.train.captions[0][2].upper() + "!"]
    return copy


def test_mirrored_copies_series_and_known_captions_are_suspected(photos):
    found = collect.leakage_suspects(photos)
    assert found.likeness[1] == pytest.approx(1, abs=1e-5) and found.alike[1]
    assert list(np.flatnonzero(found.series)) == [4] and found.distance[4] == 7
    assert list(np.flatnonzero(found.said)) == [6]
    assert collect.unknown_words(photos) == []
    photos.words.words.append("zebrafish")
    try:
        assert collect.unknown_words(photos) == ["zebrafish"]
    finally:
        photos.words.words.pop()


def test_ids_that_are_no_numbers_have_no_distance(corpus):
    found = collect.leakage_suspects(corpus)
    assert found.distance.isna().all() and not found.series.any()


def test_numbers_that_lie_close_anyway_tell_nothing(photos):
    photos.train.ids = [str(100 * (i + 1)) for i in range(len(photos.train))]
    found = collect.leakage_suspects(photos)
    assert found.distance.isna().all() and not found.series.any()


def test_gains_without_the_suspects_are_told(photos):
    found = collect.leakage_suspects(photos).assign(alike=False)
    found.loc[1, "alike"] = True
    rows = [
        {
            "variant": name,
            "seed": seed,
            "split": "test",
            "severity": "severe",
            "id": key,
            "ssim": 0.5,
        }
        | {
            "psnr_blurred": 17.0,
            "ssim_blurred": 0.4,
            "psnr": 18.0 + gain + 2 * (key == found.id[1]) * (gain > 0),
        }
        for name, gain in (("baseline", 0.0), ("no_semantics_loss", 0.0), ("full", 0.1))
        for seed in (0, 1, 2)
        for key in found.id
    ]
    frame = gains.without_suspects(pd.DataFrame(rows), found, "severe", 100)
    over = frame[frame.reference == "baseline"].set_index("left_out")["mean"]
    assert over["nothing"] == pytest.approx(0.1 + 2 / 8) and over["alike"] == pytest.approx(0.1)
    assert over["any of these"] == pytest.approx(0.1) and over["series"] > 0.3
    assert over[gains.ONLY] == pytest.approx(0.1 + 2 / 3)


def test_a_guess_names_what_training_has_most(corpus):
    rows = collect.guessed_nodes(corpus)
    own = rows[(rows.split == "test") & (rows.measure == "root_accuracy")].iloc[0]
    trees, targets = corpus.train.trees[..., 6].flatten(), corpus.test.targets[:, 6]
    named = trees[trees > 0]
    best = max(set(named.tolist()), key=lambda label: (int((named == label).sum()), -label))
    assert own["mean"] == pytest.approx(float((targets == best).sum() / (targets > 0).sum()))
    assert set(rows.variant) == {collect.GUESS} and "null_recall" not in set(rows.measure)


def test_one_caption_is_held_against_the_others(corpus):
    rows = collect.human_nodes(corpus)
    assert (
        set(rows.variant) == {collect.PERSON}
        and rows.query("measure == 'root_accuracy'")["mean"].min() > 0.9
    )
    copy = load_corpus(corpus.folder)
    copy.categories, split = [], copy.test
    first, other = (
        next(tree for tree in row if tree) for row in (split.parses[0], split.parses[1])
    )
    split.parses = [[first, other, other] for _ in split.ids]
    split.trees = torch.tensor([[copy.labels.encode(tree) for tree in row] for row in split.parses])
    assert np.array_equal(collect.others(copy, split)[0], copy.labels.encode(other))
    own = collect.human_nodes(copy).query("split == 'test'").set_index("measure")["mean"]
    same = first.nodes[6] == other.nodes[6]
    assert own["root_accuracy"] == float(same)
    split.parses = [[first] for _ in split.ids]
    assert (collect.others(copy, split) == IGNORE).all()


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


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"the real photos are not in {PHOTOS}")
def test_real_photos_have_no_unknown_words_and_few_suspects(tmp_path):
    config = load_config("photos-cpu", str(PHOTOS), overrides={"data.train": 600, "data.val": 8})
    found = prepare_corpus(config, Path(tmp_path))
    assert collect.unknown_words(found) == [] and collect.leakage_suspects(found).alike.mean() < 0.1
