# ruff: noqa
"""A study on photographs that may not be shown: public pictures, what training may have known, guesses, the README."""

import pytest

pytest.skip("follows the rewrite of s3e.report", allow_module_level=True)

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from s3e.captions.tree import IGNORE
from s3e.config import PROFILES, load_config
from s3e.data.corpus import load_corpus
from s3e.data.photos import PHOTOS as PUBLIC
from s3e.data.prepare import prepare_corpus
from s3e.evaluation import collect, gains
from s3e.evaluation.score import score_deblurrer
from s3e.models.build import build_critic, build_model, save_weights
from s3e.report import check, pictures, readme, showcase, tables
from s3e.report.manifest import PUBLIC as NOTE
from s3e.report.manifest import spent
from s3e.training.stages import new_source, save_model
from s3e.utils import ROOT, S3EError, write_json
from tests.conftest import PHOTOS
from tests.test_provenance import make

FIGURES = ROOT / "figures" / readme.PHOTOS


@pytest.fixture(scope="module")
def public(tiny):
    return tiny.model_copy(update={"pictures": "public"})


@pytest.fixture(scope="module")
def arms(corpus, public, tmp_path_factory):
    """Runs of untrained arms and of a captioner: their weights and what they keep of the data."""
    root = tmp_path_factory.mktemp("arms")
    folders = {}
    for name in ("baseline", "full", "no_semantics_loss"):
        folders[name] = root / "06_ablation" / f"{name}-s0"
        folders[name].mkdir(parents=True)
        model = build_model(public, corpus, name)
        save_model(folders[name], model, build_critic(public))
        score_deblurrer(folders[name], model, name, corpus, public)
    folders["captioner"] = root / "03_train_captioner" / "s0"
    folders["captioner"].mkdir(parents=True)
    save_weights(new_source(public, corpus), folders["captioner"] / "tree_captioner.safetensors")
    return folders


# ------------------------------------------------------------------------------------------------ public pictures


def test_public_pictures_replace_those_of_the_data(corpus, public, arms):
    read = showcase.reader(corpus.folder, public)
    shown, _ = read(corpus.folder)
    assert shown["sharp"].shape == (len(PUBLIC), 32, 32, 3) and {"severe", "kernel_severe"} <= set(
        shown
    )
    assert np.array_equal(shown["severe"], showcase.views(public)["severe"])
    samples, records = read(arms["full"])
    kept, _ = collect.read_samples(arms["full"])
    assert not np.array_equal(samples["sharp"][:2], kept["sharp"]) and np.array_equal(
        samples["sharp"], shown["sharp"]
    )
    assert samples["restored"].shape == samples["sharp"].shape and samples["attention"].shape[
        :2
    ] == (len(PUBLIC), 7)
    assert [record["id"] for record in records] == list(PUBLIC)
    assert all(record["caption"] is None and record["target"] is None for record in records)
    assert all(len(record["predicted"]) == 7 for record in records)
    assert (
        "restored" not in read(arms["captioner"])[0] and "attention" in read(arms["captioner"])[0]
    )
    assert (
        "attention" not in read(arms["no_semantics_loss"])[0]
        and "attention" not in read(arms["baseline"])[0]
    )


def test_pictures_are_those_of_the_data_unless_asked(corpus, tiny, arms):
    read = showcase.reader(corpus.folder, tiny)
    samples, records = read(arms["full"])
    assert (
        list(samples["ids"]) == corpus.val.ids[:2]
        and records[0]["references"] == corpus.val.captions[0]
    )


def test_restored_public_pictures_are_those_of_the_weights(corpus, public, arms, tmp_path):
    other = tmp_path / "06_ablation" / "baseline-s1"
    other.mkdir(parents=True)
    model = build_model(public.model_copy(update={"seed": 1}), corpus, "baseline")
    save_model(other, model, build_critic(public))
    read = showcase.reader(corpus.folder, public)
    assert not np.array_equal(read(arms["baseline"])[0]["restored"], read(other)[0]["restored"])
    (other / "generator.safetensors").unlink()
    with pytest.raises(S3EError, match="generator.safetensors: weights cannot be read"):
        showcase.reader(corpus.folder, public)(other)


def test_error_maps_and_labels_without_a_truth_can_be_drawn(corpus, public, arms):
    read = showcase.reader(corpus.folder, public)
    kept = showcase.gallery({name: read(arms[name])[0] for name in ("baseline", "full")})
    assert list(kept.psnr.index) == list(PUBLIC) and np.isfinite(kept.gain).all()
    assert showcase.gallery({"full": read(arms["full"])[0]}) is None
    samples, records = read(arms["full"])
    names = [[record[kind] for record in records] for kind in ("predicted", "target")]
    figure = pictures.node_attention(samples["blurred"], samples["attention"], *names)
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert len(words) == 7 * len(PUBLIC) and not any("✗" in word for word in words)


# ------------------------------------------------------------------------------- what training may have known


@pytest.fixture
def photos(corpus):
    """A corpus whose second test photo is a training photo's mirror image; whose ids are numbers."""
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
    table = tables.leakage(frame)
    assert (
        list(table.cells["left out (photos)"]) == ["0", "1", "1", "1", "3", "5"]
        and "3 seeds" in table.caption
    )
    assert list(table.cells.photos) == ["8", "7", "7", "7", "5", "3"] and over[
        gains.ONLY
    ] == pytest.approx(0.1 + 2 / 3)
    assert table.cells.iloc[0, -2].startswith("+0.35") and table.cells.iloc[1, -2].startswith(
        "+0.10"
    )


# --------------------------------------------------------------------------------------------------- a guess


def test_a_guess_names_what_training_has_most(corpus):
    rows = collect.guessed_nodes(corpus)
    own = rows[(rows.split == "test") & (rows.measure == "root_accuracy")].iloc[0]
    trees, targets = corpus.train.trees[..., 6].flatten(), corpus.test.targets[:, 6]
    named = trees[trees > 0]
    best = max(set(named.tolist()), key=lambda label: (int((named == label).sum()), -label))
    assert own["mean"] == pytest.approx(float((targets == best).sum() / (targets > 0).sum()))
    assert set(rows.variant) == {collect.GUESS} and "null_recall" not in set(rows.measure)
    accuracy = rows.assign(split="test")[lambda frame: ~frame.measure.duplicated()]
    tree = accuracy.assign(variant="S3-tree alone", input="severe", system="before", seeds=3)
    table = tables.nodes(pd.concat([accuracy, tree], ignore_index=True))
    assert (
        list(table.cells.input) == ["none (guess)", "severe"] and "A guess names" in table.notes[0]
    )


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


# --------------------------------------------------------------------------------- profiles, manifest, README


@pytest.mark.parametrize("profile", ["photos", "photos-cpu"])
def test_profiles_of_photographs_show_public_pictures(profile, tmp_path):
    config = load_config(profile, str(tmp_path))
    assert (
        config.pictures == "public" and config.figures == readme.PHOTOS and len(config.seeds) >= 3
    )
    assert {"baseline", "full", "no_semantics_loss", "vector_nodes", "shuffled", "oracle"} <= set(
        config.variants
    )
    assert not {"baseline", "full", "no_semantics_loss", "shuffled"} & set(config.one_seed)


def test_hours_and_hardware_come_from_the_runs(tmp_path):
    runs = [tmp_path / name for name in ("a", "b", "c")]
    for run, seconds in zip(runs[:2], (3600, 5400), strict=True):
        write_json(run / "done.json", {"seconds": seconds})
        write_json(run / "provenance.json", {"device": "cpu", "device_name": "", "threads": 1})
    found = spent(runs, 2)
    assert found == {"notebooks": 2, "hours": 2.5, "devices": ["cpu"], "threads": 1, "at_a_time": 2}
    assert "CPU, one thread a notebook, 2 at a time; the 2 notebooks" in readme._cost(found)


def test_settings_of_a_photo_profile_are_compared(tmp_path, monkeypatch):
    folder = make(tmp_path / "photos", tmp_path / "store" / "smoke")
    path = folder / "manifest.json"
    monkeypatch.setitem(PROFILES["smoke"], "figures", "photos")
    manifest = json.loads(path.read_text())
    manifest["settings"]["figures"] = "photos"
    path.write_text(json.dumps(manifest))
    assert check.changed_settings(folder, manifest) == []
    monkeypatch.setitem(PROFILES["smoke"], "data", {**PROFILES["smoke"]["data"], "source": ""})
    manifest["settings"]["data"]["source"] = "my_photos"
    assert check.changed_settings(folder, manifest) == []
    manifest["settings"]["train_b"]["steps"] = 9
    assert check.changed_settings(folder, manifest) == ["train_b.steps 9 -> 8"]


def test_published_pictures_are_told_to_be_others():
    assert all(name in NOTE for name in PUBLIC)


def test_readme_has_a_block_on_photographs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count(readme.PHOTO_START) == text.count(readme.PHOTO_END) == 1
    with pytest.raises(S3EError, match="one block from"):
        readme.filled(text.replace(readme.PHOTO_END, ""))


# ---------------------------------------------------------------------------------------- nothing is published


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
