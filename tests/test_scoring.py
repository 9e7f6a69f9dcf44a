"""Restoring in parts, images of any size, what is left on disk, what frames nodes' accuracy."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from s3e.captions.tree import IGNORE
from s3e.data.corpus import load_corpus
from s3e.evaluation import collect, score
from s3e.evaluation.images import SEEN_METRICS
from s3e.evaluation.score import node_names, padded, restore, score_deblurrer, score_images
from s3e.models.build import build_model
from s3e.utils import S3EError, read_json, write_file

FILES = {"captions.csv", "restored_test.npy", "samples.json", "samples.npz", "scores.csv"}


@pytest.fixture(scope="module")
def model(tiny, corpus):
    """The variant `full`, untrained, with an embedding that is not zero."""
    model = build_model(tiny, corpus.sizes, "full")
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
            extents={new: np.full(len(split), np.nan) for new in views},
            psnr={"severe": np.array([np.nan, *[20.0] * (len(split) - 2), np.nan])},
            label_maps=None,
        )
        for name, split in corpus.splits.items()
    }
    return replace(corpus, **splits, severities=tuple(views), captioned=False, categories=[])


def resized(split, height, width):
    """The same split with images of another shape."""
    shape = len(split), height, width, 3
    blurred = {name: np.resize(array, shape) for name, array in split.blurred.items()}
    return replace(split, sharp=np.resize(split.sharp, shape), blurred=blurred)


def restored(model, split, severity, config):
    """All restored images, in the order of the split."""
    rows, images, _ = zip(*restore(model, split, severity, config), strict=True)
    return np.concatenate(images)[np.argsort(np.concatenate(rows))]


def test_images_of_any_size_are_padded_by_reflection_and_cropped_back(tiny, corpus, model):
    split = resized(corpus.test, 36, 50)
    assert restored(model, split, "severe", tiny).shape == (8, 36, 50, 3)
    batch = padded(split.batch(np.arange(2), "severe"))
    assert batch.blurred.shape == batch.sharp.shape == (2, 3, 48, 64)
    assert torch.equal(batch.blurred[..., :36, 50:], batch.blurred[..., :36, 35:49].flip(-1))
    assert torch.equal(batch.sharp[..., 36:, :], batch.sharp[..., 23:35, :].flip(-2))
    whole = corpus.test.batch(np.arange(2), "severe")
    assert padded(whole) is whole


def test_parts_are_as_large_as_memory_allows_and_change_nothing(tiny, corpus, model, monkeypatch):
    whole = restored(model, corpus.test, "severe", tiny)
    monkeypatch.setattr(score, "PIXELS", 4 * 32 * 32)
    parts = list(restore(model, corpus.test, "severe", tiny))
    assert [len(rows) for rows, _, _ in parts] == [4, 4]
    together = np.concatenate([images for _, images, _ in parts])
    assert np.abs(together.astype(int) - whole).max() <= 1  # another batch size may round elsewhere
    monkeypatch.setattr(score, "PIXELS", 1)
    parts = restore(model, corpus.test, "severe", tiny)
    assert max(len(rows) for rows, _, _ in parts) == 3  # never alone


def test_only_images_that_have_the_severity_are_scored(tiny, frames, model):
    table = score_images(model, frames.test, "severe", tiny)
    assert list(table.id) == frames.test.ids[1:-1]
    assert table.psnr_blurred.notna().all() and table.extent.isna().all()


def test_without_captions_only_images_are_scored(tiny, frames, model, tmp_path):
    score_deblurrer(tmp_path, model, "full", frames, tiny)
    only_captioned = {"captions.csv", "restored_test.npy"}
    assert {path.name for path in tmp_path.iterdir()} == FILES - only_captioned
    scores = pd.read_csv(tmp_path / "scores.csv")
    counts = scores.groupby(["split", "severity"]).size()
    assert counts.to_dict() == {
        (split, name): count
        for split in ("test", "val")
        for name, count in (("released", 8), ("severe", 6))
    }
    assert "leaf_correct" not in scores
    judged = scores.groupby("split")[[*SEEN_METRICS, "recognition_blurred"]].count()
    assert (judged.loc["test"] == 8 + 6).all() and (judged.loc["val"] == 0).all()
    assert not {*SEEN_METRICS} - {*collect.read_scores([tmp_path]).query("split == 'test'").metric}
    samples = np.load(tmp_path / "samples.npz")
    assert list(samples["ids"]) == list(np.repeat(frames.val.ids[1:3], 2))
    assert list(samples["severity"]) == ["released", "severe"] * 2  # samples have every severity
    assert np.array_equal(samples["blurred"][::2], frames.val.blurred["released"][1:3])
    assert np.array_equal(samples["blurred"][1::2], frames.val.blurred["severe"][1:3])
    assert not np.array_equal(samples["restored"][::2], samples["restored"][1::2])
    record = read_json(tmp_path / "samples.json")[0]
    assert record["caption"] is None and record["references"] == frames.val.captions[1]
    assert record["target"] == node_names(frames.val.targets[1].tolist(), frames)


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
    assert len(scores) == 2 * 2 * 2 * 3 * 8 and set(scores.variant) == {"blurred", "full"}
    kept = np.load(scored / "restored_test.npy")
    assert np.array_equal(kept, restored(model, corpus.test, "severe", tiny))
    samples, records = collect.read_samples(scored)
    assert set(samples) == {"ids", "severity", "sharp", "blurred", "restored", "attention"}
    assert len(records) == len(samples["ids"])
    rows = collect.node_accuracy([scored]).query("metric == 'leaf_accuracy'")
    assert set(rows.when) == {"after"} and set(rows.images) == {8}
    rows = rows.set_index(["split", "input"])["mean"]
    part = pd.read_csv(scored / "scores.csv").query("split == 'test' and severity == 'severe'")
    assert rows["test", "severe"] == pytest.approx(part.leaf_correct.sum() / part.leaf_total.sum())
    assert set(rows.index) == {
        (s, v) for s in ("val", "test") for v in ("sharp", *corpus.severities)
    }
    captions = collect.read_captions([scored])
    assert set(zip(captions.split, captions.input, strict=True)) == {
        (split, view) for split in ("val", "test") for view in ("sharp", "severe")
    }


def test_a_captioner_is_scored_on_the_views_that_are_asked_for(tiny, corpus, model):
    views = "sharp", "light"
    said = score.score_captioner(model.semantics, "tree", corpus, tiny, views, trees=["light"])
    assert list(said.groupby(["split", "input"], sort=False).groups) == [
        (split, view) for split in ("val", "test") for view in views
    ]
    assert set(said.input[said.leaf_total.notna()]) == {"light"} and set(said.system) == {"tree"}
    assert list(said.id[said.input == "sharp"]) == corpus.val.ids + corpus.test.ids


def test_captions_come_back_as_they_were_written(tmp_path):
    texts = ["", "null", "a dog, a cat", 'a "red" ball', "NA"]
    frame = pd.DataFrame({"id": ["01", "NA", "1", "x", "y"], "caption": texts})
    about = {"system": "full", "input": "sharp", "split": "val"}
    write_file(tmp_path / "captions.csv", frame.assign(**about))
    found = collect.read_captions([tmp_path])
    assert found.caption.tolist() == texts and found.id.tolist() == frame.id.tolist()


def test_folders_of_runs_are_named_by_variant_and_seed(tmp_path):
    run = collect.describe("runs/laptop/06_ablation/no_tree_loss-s2")
    assert (run.stage, run.variant, run.seed) == ("06_ablation", "no_tree_loss", 2)
    assert collect.describe("x/03_train_captioner/s0").variant == ""
    with pytest.raises(S3EError, match="none of the chosen runs has a scores.csv"):
        collect.read_scores([tmp_path / "full-s0"])


def test_a_guess_names_what_training_has_most(corpus):
    rows = collect.node_landmarks(corpus)
    rows = rows[rows.variant == collect.GUESS]
    own = rows[(rows.split == "test") & (rows.metric == "root_accuracy")].iloc[0]
    trees, targets = corpus.train.trees[..., 6].flatten(), corpus.test.targets[:, 6]
    named = trees[trees > 0]
    best = max(set(named.tolist()), key=lambda label: (int((named == label).sum()), -label))
    assert own["mean"] == pytest.approx(float((targets == best).sum() / (targets > 0).sum()))
    assert "null_recall" not in set(rows.metric) and set(rows.seeds) == {0}


def test_one_caption_is_held_against_the_others(corpus):
    rows = collect.node_landmarks(corpus).query("variant == @collect.PERSON")
    assert rows.query("metric == 'root_accuracy'")["mean"].min() > 0.9
    copy = load_corpus(corpus.folder)
    copy.categories, split = [], copy.test
    first, other = (next(tree for tree in row if tree) for row in split.parses[:2])
    split.parses = [[first, other, other] for _ in split.ids]
    split.trees = torch.tensor([[copy.labels.encode(tree) for tree in row] for row in split.parses])
    assert np.array_equal(collect.other_targets(copy, split)[0], copy.labels.encode(other))
    rows = collect.node_landmarks(copy).query("split == 'test' and variant == @collect.PERSON")
    same = first.nodes[6] == other.nodes[6]
    assert rows.set_index("metric")["mean"]["root_accuracy"] == float(same)
    split.parses = [[first] for _ in split.ids]
    assert (collect.other_targets(copy, split) == IGNORE).all()
