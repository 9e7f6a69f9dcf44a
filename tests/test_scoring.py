"""Restoring in parts, images of any size, what is left on disk, and what frames the accuracy of
nodes.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from s3e.captions.tree import IGNORE
from s3e.config import load_config
from s3e.data.corpus import load_corpus
from s3e.evaluation import collect, score
from s3e.evaluation.score import (
    image_table,
    node_names,
    padded,
    restore_chunks,
    restore_split,
    score_captioner,
    score_deblurrer,
    write_samples,
)
from s3e.models.build import build_model
from s3e.utils import S3EError, read_json
from tests.conftest import TINY

FILES = {
    "captions.json",
    "nodes.csv",
    "restored_test.npy",
    "samples.json",
    "samples.npz",
    "scores.csv",
}


@pytest.fixture(scope="module")
def model(tiny, corpus):
    """The variant `full`, untrained, with an embedding that is not zero."""
    model = build_model(tiny, corpus, "full")
    for embed in model.generator.embed.values():
        torch.nn.init.normal_(embed.mix.weight, 0, 0.1, generator=torch.Generator().manual_seed(0))
    return model.eval()


@pytest.fixture(scope="module")
def frames(corpus):
    """The corpus as pairs without captions; the first and the last image have no severe version."""
    views = {"released": "light", "severe": "severe"}
    splits = {
        name: replace(
            split,
            blurred={new: split.blurred[old] for new, old in views.items() if old in split.blurred},
            extents={new: [float("nan")] * len(split) for new in views},
            missing={"severe": [0, len(split) - 1]},
        )
        for name, split in corpus.splits.items()
    }
    return replace(corpus, splits=splits, severities=tuple(views), captioned=False, categories=[])


def resized(split, height, width):
    """The same split with images of another shape."""
    shape = len(split), height, width, 3
    blurred = {name: np.resize(array, shape) for name, array in split.blurred.items()}
    return replace(split, sharp=np.resize(split.sharp, shape), blurred=blurred)


def test_images_of_any_size_are_padded_by_reflection_and_cropped_back(tiny, corpus, model):
    split = resized(corpus.test, 36, 50)
    assert restore_split(model, split, "severe", tiny).shape == (8, 36, 50, 3)
    batch = padded(split.batch(np.arange(2), "severe"))
    assert batch.blurred.shape == batch.sharp.shape == (2, 3, 48, 64)
    assert torch.equal(batch.blurred[..., :36, 50:], batch.blurred[..., :36, 35:49].flip(-1))
    assert torch.equal(batch.sharp[..., 36:, :], batch.sharp[..., 23:35, :].flip(-2))
    whole = corpus.test.batch(np.arange(2), "severe")
    assert padded(whole) is whole


def test_parts_are_as_large_as_memory_allows_and_change_nothing(tiny, corpus, model, monkeypatch):
    whole = restore_split(model, corpus.test, "severe", tiny)
    monkeypatch.setattr(score, "PIXELS", 4 * 32 * 32)
    parts = list(restore_chunks(model, corpus.test, "severe", tiny))
    assert [len(rows) for rows, _, _ in parts] == [4, 4]
    together = np.concatenate([restored for _, restored, _ in parts])
    assert np.abs(together.astype(int) - whole).max() <= 1  # another batch size may round elsewhere
    monkeypatch.setattr(score, "PIXELS", 1)
    parts = restore_chunks(model, corpus.test, "severe", tiny)
    assert max(len(rows) for rows, _, _ in parts) == 3  # never alone


def test_only_images_that_have_the_severity_are_scored(tiny, frames, model):
    restored = restore_split(model, frames.test, "severe", tiny)
    table = image_table(frames.test, "severe", frames.test.rows("severe"), restored)
    assert list(table.id) == frames.test.ids[1:-1]
    assert table.psnr_blurred.notna().all() and table.extent.isna().all()


def test_without_captions_only_images_are_scored(tiny, frames, model, tmp_path):
    metrics = score_deblurrer(tmp_path, model, "full", frames, tiny)
    assert {path.name for path in tmp_path.iterdir()} == FILES - {
        "captions.json",
        "nodes.csv",
        "restored_test.npy",
    }
    scores = pd.read_csv(tmp_path / "scores.csv")
    counts = scores.groupby(["split", "severity"]).size()
    assert counts.to_dict() == {
        (split, name): count
        for split in ("test", "val")
        for name, count in (("released", 8), ("severe", 6))
    }
    assert "leaf_correct" not in scores and "test_released_psnr" in metrics
    samples = np.load(tmp_path / "samples.npz")
    assert list(samples["ids"]) == frames.val.ids[1:3]  # samples have every severity
    assert np.array_equal(samples["blurred_released"], frames.val.blurred["released"][1:3])
    assert not np.array_equal(samples["restored_released"], samples["restored"])
    record = read_json(tmp_path / "samples.json")[0]
    assert record["caption"] is None and record["references"] == frames.val.captions[1]
    assert record["target"] == node_names(frames.val.targets[1].tolist(), frames)


def test_samples_have_every_severity_whatever_was_trained(frames, model, tmp_path):
    config = load_config("smoke", overrides={**TINY, "blur.severity": "released"})
    write_samples(tmp_path, model, frames, config, caption=False)
    samples = np.load(tmp_path / "samples.npz")
    assert np.array_equal(samples["blurred"], frames.val.blurred["released"][1:3])
    assert np.array_equal(samples["blurred_severe"], frames.val.blurred["severe"][1:3])


@pytest.fixture(scope="module")
def scored(tiny, corpus, model, tmp_path_factory):
    """The folder of a scored run of `full`."""
    folder = tmp_path_factory.mktemp("runs") / "05_co_training" / "full-s0"
    folder.mkdir(parents=True)
    score_deblurrer(folder, model, "full", corpus, tiny)
    return folder


def test_with_captions_all_is_scored(tiny, corpus, model, scored):
    assert {path.name for path in scored.iterdir()} == FILES
    scores = collect.read_scores([scored])
    assert len(scores) == 2 * 3 * 8 and set(scores.variant) == {"full"} and set(scores.seed) == {0}
    kept = np.load(scored / "restored_test.npy")
    assert np.array_equal(kept, restore_split(model, corpus.test, "severe", tiny))
    samples, records = collect.read_samples(scored)
    assert set(samples) == {"ids", "sharp", "blurred", "restored", "attention", "word_attention"}
    assert samples["word_attention"].shape == (len(records), corpus.train.words.shape[-1], 7)
    np.testing.assert_allclose(samples["word_attention"].sum(-1), 1, atol=1e-5)
    rows = pd.read_csv(scored / "nodes.csv").set_index(["split", "input"])
    part = scores[(scores.split == "test") & (scores.severity == "severe")]
    share = part.leaf_correct.sum() / part.leaf_total.sum()
    assert rows.loc[("test", "severe"), "leaf_accuracy"] == pytest.approx(share)
    assert set(rows.index) == {
        (s, v) for s in ("val", "test") for v in ("sharp", *corpus.severities)
    }
    captions = collect.read_captions([scored])
    assert set(zip(captions.split, captions.input, strict=True)) == {
        (split, view) for split in ("val", "test") for view in ("sharp", "severe")
    }


def test_a_captioner_is_scored_on_the_views_that_are_asked_for(tiny, corpus, model):
    said, nodes = score_captioner(
        model.semantics, "tree", corpus, tiny, ("sharp", "light"), ["light"]
    )
    assert [(row["split"], row["input"]) for row in said] == [
        (split, view) for split in ("val", "test") for view in ("sharp", "light")
    ]
    assert [row["input"] for row in nodes] == ["light", "light"] and nodes[0]["system"] == "before"
    assert list(said[2]["captions"]) == corpus.test.ids


def test_folders_of_runs_are_named_by_variant_and_seed(tmp_path):
    run = collect.describe("runs/laptop/06_ablation/no_tree_loss-s2")
    assert (run.stage, run.variant, run.seed) == ("06_ablation", "no_tree_loss", 2)
    assert collect.describe("x/03_train_captioner/s0").variant == ""
    with pytest.raises(S3EError, match="should end in s<seed>"):
        collect.describe("runs/laptop/07_evaluation/all")
    with pytest.raises(S3EError, match="none of the chosen runs has a scores.csv"):
        collect.read_scores([tmp_path / "full-s0"])


def test_captions_are_scored_beside_random_and_human_ones(corpus, monkeypatch):
    monkeypatch.setenv("S3E_NO_JAVA", "1")
    texts = dict(zip(corpus.test.ids, corpus.test.captions, strict=True))
    rows = [
        ("tree", "sharp", "test", seed, {key: t[seed] for key, t in texts.items()})
        for seed in (0, 1)
    ]
    said = pd.DataFrame(rows, columns=["system", "input", "split", "seed", "captions"])
    frame = collect.caption_scores(said, {"test": texts}, ["a new text"], 50)
    found = frame.set_index(["references", "system"])
    assert found.loc[("all", "tree"), "BLEU-1"] > 0.999 and found.loc[("all", "tree"), "seeds"] == 2
    assert (
        found.loc[("other", "tree"), "BLEU-1"] < 0.999
    )  # the first seed's caption is no reference
    assert ("all", collect.HUMAN) not in found.index and ("other", collect.HUMAN) in found.index
    assert (
        found.loc[("all", collect.RANDOM), "CIDEr"] < found.loc[("other", collect.HUMAN), "CIDEr"]
    )
    assert (found["CIDEr_low"] <= found["CIDEr"]).all() and found.METEOR.isna().all()


def test_a_guess_names_what_training_has_most(corpus):
    rows = collect.node_landmarks(corpus)
    rows = rows[rows.variant == collect.GUESS]
    own = rows[(rows.split == "test") & (rows.measure == "root_accuracy")].iloc[0]
    trees, targets = corpus.train.trees[..., 6].flatten(), corpus.test.targets[:, 6]
    named = trees[trees > 0]
    best = max(set(named.tolist()), key=lambda label: (int((named == label).sum()), -label))
    assert own["mean"] == pytest.approx(float((targets == best).sum() / (targets > 0).sum()))
    assert "null_recall" not in set(rows.measure) and set(rows.seeds) == {0}


def test_one_caption_is_held_against_the_others(corpus):
    rows = collect.node_landmarks(corpus).query("variant == @collect.PERSON")
    assert rows.query("measure == 'root_accuracy'")["mean"].min() > 0.9
    copy = load_corpus(corpus.folder)
    copy.categories, split = [], copy.test
    first, other = (next(tree for tree in row if tree) for row in split.parses[:2])
    split.parses = [[first, other, other] for _ in split.ids]
    split.trees = torch.tensor([[copy.labels.encode(tree) for tree in row] for row in split.parses])
    assert np.array_equal(collect.other_targets(copy, split)[0], copy.labels.encode(other))
    rows = collect.node_landmarks(copy).query("split == 'test' and variant == @collect.PERSON")
    same = first.nodes[6] == other.nodes[6]
    assert rows.set_index("measure")["mean"]["root_accuracy"] == float(same)
    split.parses = [[first] for _ in split.ids]
    assert (collect.other_targets(copy, split) == IGNORE).all()
