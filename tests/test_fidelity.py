"""The judge knows no arm and no blur; what it says of restored photos is scored by words, by nodes and in pairs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from s3e.config import load_config
from s3e.evaluation.captions import METRICS
from s3e.evaluation.fidelity import (
    HUMAN,
    RANDOM,
    caption_variants,
    fidelity_scores,
    train_judge,
)
from s3e.evaluation.score import read_images
from s3e.training.stages import new_source
from tests.conftest import TINY

SHORT = {"train_tree.steps": 2, "train_a1.steps": 2, "train_tree.batch": 4, "train_a1.batch": 4}
NODES = ["leaf_accuracy", "relation_accuracy", "root_accuracy"]


@pytest.fixture(scope="module")
def config():
    return load_config(
        "smoke", overrides={**TINY, **SHORT, "evaluation.beam": 1, "evaluation.resamples": 200}
    )


@pytest.fixture(scope="module")
def judged(corpus, config, tmp_path_factory):
    """The folder of a judge that was hardly trained, and the judge."""
    folder = tmp_path_factory.mktemp("judge")
    return folder, train_judge(folder, corpus, config)


def weights(module):
    return torch.cat([value.flatten() for value in module.state_dict().values()])


@pytest.fixture
def arms(corpus, tmp_path):
    """Two arms of two seeds: one restores perfectly, the other nothing."""
    for name, images in (("full", corpus.test.sharp), ("baseline", corpus.test.blurred["severe"])):
        for seed in (0, 1):
            folder = (
                tmp_path
                / ("05_co_training" if name == "full" else "06_ablation")
                / f"{name}-s{seed}"
            )
            folder.mkdir(parents=True)
            np.save(folder / "restored_test.npy", images)
    return sorted(tmp_path.glob("0*/*"))


def test_the_judge_rests_and_never_sees_blur(corpus, config, judged, tmp_path):
    folder, judge = judged
    assert (folder / "judge.safetensors").exists() and not any(
        p.requires_grad for p in judge.parameters()
    )
    black = {
        name: replace(
            split, blurred={key: np.zeros_like(array) for key, array in split.blurred.items()}
        )
        for name, split in corpus.splits.items()
    }
    again = train_judge(tmp_path / "again", replace(corpus, splits=black), config)
    assert torch.equal(weights(judge), weights(again))


def test_the_judge_starts_from_a_seed_of_its_own(corpus, config, monkeypatch, tmp_path):
    starts = []

    class Train:
        def __init__(self, folder, name, phase, source, corpus, config, **_):
            starts.append((config.seed, weights(source)))

        def fit(self, watch):
            pass

    monkeypatch.setattr("s3e.evaluation.fidelity.PretrainSemantics", Train)
    train_judge(tmp_path, corpus, config)
    of_03 = weights(new_source(config, corpus, "flat"))
    for seed, start in starts:
        assert (
            seed != config.seed
            and start.shape == of_03.shape
            and (start == of_03).float().mean() < 0.3
        )


def test_every_arm_is_read_like_the_photos_that_it_restored(corpus, config, judged, arms):
    rows = caption_variants(judged[1], arms, corpus, config)
    said = {(row["system"], row["seed"]): row["captions"] for row in rows}
    assert list(said) == [
        ("sharp", 0),
        ("blurred", 0),
        ("full", 0),
        ("full", 1),
        ("baseline", 0),
        ("baseline", 1),
    ]
    assert said["full", 1] == said["sharp", 0] and said["baseline", 0] == said["blurred", 0]
    assert list(said["sharp", 0]) == corpus.test.ids and {row["split"] for row in rows} == {"test"}
    assert [row["input"] for row in rows] == ["sharp", "severe"] + ["deblurred"] * 4
    one = read_images(judged[1], corpus.test.sharp[3:4], corpus, config)[1]
    assert one == [said["sharp", 0][corpus.test.ids[3]]]


@pytest.fixture
def scored(corpus, config, monkeypatch):
    """A judge that says the first caption of a restored photo, and that of another one of a blurred photo."""
    monkeypatch.setenv("S3E_NO_JAVA", "1")
    right = {
        key: texts[1] for key, texts in zip(corpus.test.ids, corpus.test.captions, strict=True)
    }
    wrong = dict(
        zip(reversed(right), [*list(right.values())[::-1][1:], ""], strict=True)
    )  # neighbours', in other order
    sets = [
        ("sharp", 0, right),
        ("blurred", 0, wrong),
        ("full", 0, right),
        ("full", 2, right),
        ("baseline", 0, wrong),
    ]
    sets += [("baseline", 1, right), ("odd", 0, wrong)]
    test = corpus.test  # its photos in another order than that of their sorted ids
    test = replace(
        test, ids=test.ids[::-1], captions=test.captions[::-1], targets=test.targets.flip(0)
    )
    rows = [
        {"system": name, "input": "", "split": "test", "seed": seed, "captions": s}
        for name, seed, s in sets
    ]
    return fidelity_scores(rows, replace(corpus, splits={**corpus.splits, "test": test}), config)


def test_fidelity_by_words_and_nodes(scored, corpus):
    table = scored[0].set_index(["system", "metric"])
    assert set(scored[0].system) == {"sharp", "blurred", "full", "baseline", "odd", RANDOM, HUMAN}
    assert list(table.loc["full"].index) == [*METRICS, *NODES]
    assert table.loc["full"].seeds.unique() == [2] and table.loc["sharp"].seeds.unique() == [0]
    assert set(scored[0].images) == {len(corpus.test)}
    for name in (*METRICS[:4], "ROUGE-L", *NODES):
        assert table.loc[("full", name), "mean"] == pytest.approx(1), (
            name
        )  # its caption is among the references
        assert table.loc[("blurred", name), "mean"] < 0.9, name
    assert table.loc[(HUMAN, "CIDEr"), "mean"] > table.loc[(RANDOM, "CIDEr"), "mean"]
    assert table.loc[(HUMAN, "BLEU-4"), "mean"] < 0.9  # the first caption is no reference
    assert (
        np.isnan(table.loc[("full", "METEOR"), "mean"])
        and "no Java" in table.loc[("full", "METEOR"), "reason"]
    )
    assert table.loc[("full", "CIDEr"), "reason"] == ""


def test_differences_are_paired_by_photo_and_seed(scored):
    table = scored[1].set_index(["reference", "metric"])
    assert list(scored[1].system.unique()) == ["full"] and list(scored[1].reference.unique()) == [
        "blurred",
        "baseline",
    ]
    means = scored[0].set_index(["system", "metric"])["mean"]
    gain = table.loc[("blurred", "CIDEr")]
    assert gain.seeds == 2 and gain["mean"] == pytest.approx(
        means["full", "CIDEr"] - means["blurred", "CIDEr"]
    )
    assert 0 < gain.low < gain["mean"] < gain.high
    shared = table.loc[("baseline", "CIDEr")]  # seed 0 alone is in both
    assert shared.seeds == 1 and shared["mean"] == pytest.approx(gain["mean"])


def test_with_one_caption_a_photo_no_human_takes_part(corpus, config, monkeypatch):
    monkeypatch.setenv("S3E_NO_JAVA", "1")
    split = replace(corpus.test, captions=[texts[:1] for texts in corpus.test.captions])
    single = replace(corpus, splits={**corpus.splits, "test": split})
    said = {key: texts[0] for key, texts in zip(split.ids, split.captions, strict=True)}
    rows = [{"system": "sharp", "input": "sharp", "split": "test", "seed": 0, "captions": said}]
    scores, differences = fidelity_scores(rows, single, config)
    assert set(scores.system) == {"sharp", RANDOM} and differences.empty
    assert scores.set_index(["system", "metric"]).loc[("sharp", "BLEU-4"), "mean"] == pytest.approx(
        1
    )
