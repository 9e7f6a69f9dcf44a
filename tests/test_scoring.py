"""Restoring in parts, pictures of any size, missing severities, and what is left on disk without captions."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from s3e.config import load_config
from s3e.evaluation import score as restoring
from s3e.evaluation.score import (
    image_table,
    node_names,
    padded,
    restore_chunks,
    restore_split,
    score_deblurrer,
    write_samples,
)
from s3e.models.build import build_model
from s3e.utils import read_json
from tests.conftest import TINY


@pytest.fixture(scope="module")
def model(tiny, corpus):
    """The arm `full`, untrained, with an embedding that is not zero."""
    model = build_model(tiny, corpus, "full")
    for embed in model.generator.embed.values():
        torch.nn.init.normal_(embed.mix.weight, 0, 0.1, generator=torch.Generator().manual_seed(0))
    return model.eval()


@pytest.fixture(scope="module")
def frames(corpus):
    """The corpus as pairs without captions; the first and the last photo have no severe version."""
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
    return replace(
        corpus, splits=splits, severities=("released", "severe"), captioned=False, categories=[]
    )


def resized(split, height, width):
    """The same split with pictures of another shape."""
    arrays = {
        name: np.resize(array, (len(split), height, width, 3))
        for name, array in split.blurred.items()
    }
    return replace(
        split, sharp=np.resize(split.sharp, (len(split), height, width, 3)), blurred=arrays
    )


def test_pictures_of_any_size_are_padded_by_reflection_and_cropped_back(tiny, corpus, model):
    split = resized(corpus.test, 36, 50)
    restored = restore_split(model, split, "severe", tiny)
    assert restored.shape == (8, 36, 50, 3)
    batch = padded(split.batch(np.arange(2), "severe"))
    assert batch.blurred.shape == (2, 3, 48, 64) and batch.sharp.shape == (2, 3, 48, 64)
    assert torch.equal(batch.blurred[..., :36, 50:], batch.blurred[..., :36, 35:49].flip(-1))
    assert torch.equal(batch.sharp[..., 36:, :], batch.sharp[..., 23:35, :].flip(-2))
    whole = corpus.test.batch(np.arange(2), "severe")
    assert padded(whole) is whole


def test_parts_are_as_large_as_memory_allows_and_change_nothing(tiny, corpus, model, monkeypatch):
    whole = restore_split(model, corpus.test, "severe", tiny)
    monkeypatch.setattr(restoring, "PIXELS", 4 * 32 * 32)
    parts = list(restore_chunks(model, corpus.test, "severe", tiny))
    assert [len(rows) for rows, _, _ in parts] == [4, 4]
    together = np.concatenate([restored for _, restored, _ in parts])
    assert np.abs(together.astype(int) - whole).max() <= 1  # another batch size may round elsewhere
    assert np.concatenate([nodes for _, _, nodes in parts]).shape == (8, 7)
    monkeypatch.setattr(restoring, "PIXELS", 1)
    assert (
        max(len(rows) for rows, _, _ in restore_chunks(model, corpus.test, "severe", tiny)) == 3
    )  # never alone


def test_only_photos_that_have_the_severity_are_scored(tiny, frames, model):
    rows = frames.test.rows("severe")
    restored = restore_split(model, frames.test, "severe", tiny)
    table = image_table(frames.test, "severe", rows, restored)
    assert (
        list(table.id) == frames.test.ids[1:-1]
        and table.psnr_blurred.notna().all()
        and table.extent.isna().all()
    )


def test_without_captions_only_pictures_are_scored(tiny, frames, model, tmp_path):
    metrics = score_deblurrer(tmp_path, model, "full", frames, tiny)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "samples.json",
        "samples.npz",
        "scores.csv",
    ]
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert scores.groupby(["split", "severity"]).size().to_dict() == {
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
    assert list(samples["ids"]) == frames.val.ids[1:3]
    assert np.array_equal(samples["blurred"], frames.val.blurred["released"][1:3])
    assert np.array_equal(samples["blurred_severe"], frames.val.blurred["severe"][1:3])


def test_with_captions_the_files_are_those_of_before(tiny, corpus, model, tmp_path):
    score_deblurrer(tmp_path, model, "full", corpus, tiny)
    names = {
        "captions.json",
        "nodes.csv",
        "restored_test.npy",
        "samples.json",
        "samples.npz",
        "scores.csv",
    }
    assert {path.name for path in tmp_path.iterdir()} == names
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert len(scores) == 2 * 3 * 8 and "leaf_correct" in scores
    assert np.array_equal(
        np.load(tmp_path / "restored_test.npy"), restore_split(model, corpus.test, "severe", tiny)
    )
    samples = np.load(tmp_path / "samples.npz")
    assert set(samples) == {"ids", "sharp", "blurred", "restored", "attention", "word_attention"}
    assert samples["word_attention"].shape == (len(samples["ids"]), corpus.train.words.shape[-1], 7)
    np.testing.assert_allclose(samples["word_attention"].sum(-1), 1, atol=1e-5)
