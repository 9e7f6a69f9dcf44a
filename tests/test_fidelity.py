"""The judge knows no variant and no blur; its captions are scored by words, nodes and in pairs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from s3e.config import load_config
from s3e.evaluation.captions import METRICS
from s3e.evaluation.collect import HUMAN, RANDOM
from s3e.evaluation.fidelity import caption_tables, caption_variants, train_judge
from s3e.models.build import build_semantics
from tests.conftest import TINY

SHORT = {"train_tree.steps": 2, "train_a1.steps": 2, "train_tree.batch": 4, "train_a1.batch": 4}
NODES = ["leaf_accuracy", "relation_accuracy", "root_accuracy"]


@pytest.fixture(scope="module")
def config():
    fast = {"evaluation.beam": 1, "evaluation.resamples": 200}
    return load_config("smoke", overrides={**TINY, **SHORT, **fast})


def weights(module):
    return torch.cat([value.flatten() for value in module.state_dict().values()])


def test_the_judge_has_a_seed_of_its_own_and_never_sees_blur(corpus, config, tmp_path):
    judge = train_judge(tmp_path, corpus, config)
    assert (tmp_path / "judge.safetensors").exists()
    assert not any(value.requires_grad for value in judge.parameters())
    black = {
        name: replace(split, blurred={k: np.zeros_like(v) for k, v in split.blurred.items()})
        for name, split in corpus.splits.items()
    }
    again = train_judge(tmp_path / "again", replace(corpus, **black), config)
    assert torch.equal(weights(judge), weights(again))
    start = weights(
        build_semantics(config, corpus.sizes, "flat")
    )  # of notebook 03, before two small steps
    assert ((weights(judge) - start).abs() < 0.01).float().mean() < 0.5


def test_every_variant_is_read_like_the_images_that_it_restored(corpus, config, tmp_path):
    for name, images in (("full", corpus.test.sharp), ("baseline", corpus.test.blurred["severe"])):
        for seed in (0, 1):
            folder = tmp_path / "06_ablation" / f"{name}-s{seed}"
            folder.mkdir(parents=True)
            np.save(folder / "restored_test.npy", images)
    judge, paths = build_semantics(config, corpus.sizes, "flat"), sorted(tmp_path.glob("0*/*"))
    rows = caption_variants(judge, paths, corpus, config)
    said = {key: own.caption.tolist() for key, own in rows.groupby(["system", "seed"], sort=False)}
    assert list(said) == [("sharp", 0), ("blurred", 0)] + [
        (name, seed) for name in ("baseline", "full") for seed in (0, 1)
    ]
    assert said["full", 1] == said["sharp", 0] and said["baseline", 0] == said["blurred", 0]
    assert list(rows.id) == corpus.test.ids * 6 and set(rows.split) == {"test"}
    assert list(rows.input[::8]) == ["sharp", "severe"] + ["deblurred"] * 4


def said_of(split, system, seed, texts, view="deblurred"):
    """What `system` says of each image of a split."""
    about = {"system": system, "input": view, "split": split.name, "seed": seed}
    return pd.DataFrame(about | {"id": split.ids, "caption": texts})


@pytest.fixture
def scored(corpus, monkeypatch):
    """A judge that says an image's second caption of a restored image, a neighbour's if blurred."""
    monkeypatch.setenv("S3E_NO_JAVA", "1")
    test = corpus.test
    right = [texts[1] for texts in test.captions]
    wrong = ["", *right[:-1]]  # the neighbours'
    sets = [("sharp", 0, right), ("blurred", 0, wrong), ("full", 0, right), ("full", 2, right)]
    sets += [("baseline", 0, wrong), ("baseline", 1, right), ("odd", 0, wrong)]
    said = pd.concat([said_of(test, *item) for item in sets])
    turned = replace(  # in another order than that of the sorted ids
        test, ids=test.ids[::-1], captions=test.captions[::-1], targets=test.targets.flip(0)
    )
    corpus = replace(corpus, test=turned)
    return list(caption_tables({"fidelity": said}, corpus, 200).values())


def test_fidelity_by_words_and_nodes(scored, corpus):
    table = scored[0].set_index(["system", "metric"])
    assert set(scored[0].system) == {"sharp", "blurred", "full", "baseline", "odd", RANDOM, HUMAN}
    assert list(table.loc["full"].index) == [*METRICS, *NODES]
    assert table.loc["full"].seeds.unique() == [2] and table.loc["sharp"].seeds.unique() == [0]
    assert set(scored[0].images) == {len(corpus.test)}
    for name in (*METRICS[:4], "ROUGE-L", *NODES):  # its caption is among the references
        assert table.loc[("full", name), "mean"] == pytest.approx(1), name
        assert table.loc[("blurred", name), "mean"] < 0.9, name
    assert table.loc[(HUMAN, "CIDEr"), "mean"] > table.loc[(RANDOM, "CIDEr"), "mean"]
    assert table.loc[(HUMAN, "BLEU-4"), "mean"] < 0.9  # the first caption is no reference
    assert np.isnan(table.loc[("full", "METEOR"), "mean"])
    assert "no Java" in table.loc[("full", "METEOR"), "reason"]
    assert table.loc[("full", "CIDEr"), "reason"] == ""


def test_differences_are_paired_by_image_and_seed(scored):
    table = scored[1].set_index(["reference", "metric"])
    assert set(scored[1].system) == {"full"}
    assert list(scored[1].reference.unique()) == ["blurred", "baseline"]
    means = scored[0].set_index(["system", "metric"])["mean"]
    gain, shared = table.loc[("blurred", "CIDEr")], table.loc[("baseline", "CIDEr")]
    assert gain["mean"] == pytest.approx(means["full", "CIDEr"] - means["blurred", "CIDEr"])
    assert gain.seeds == 2 and 0 < gain.low < gain["mean"] < gain.high
    assert shared.seeds == 1 and shared["mean"] == pytest.approx(gain["mean"])  # seed 0 is in both


def test_with_one_caption_an_image_no_human_takes_part(corpus, monkeypatch):
    monkeypatch.setenv("S3E_NO_JAVA", "1")
    split = replace(corpus.test, captions=[texts[:1] for texts in corpus.test.captions])
    single = replace(corpus, test=split)
    said = said_of(split, "sharp", 0, [texts[0] for texts in split.captions], "sharp")
    [scores] = caption_tables({"fidelity": said}, single, 200).values()
    assert set(scores.system) == {"sharp", RANDOM} and set(scores.reference) == {""}
    own = scores.set_index(["system", "metric"]).loc[("sharp", "BLEU-4"), "mean"]
    assert own == pytest.approx(1)


def test_captions_are_scored_beside_random_and_human_ones(corpus, monkeypatch):
    monkeypatch.setenv("S3E_NO_JAVA", "1")
    texts = zip(*corpus.test.captions, strict=True)
    said = [
        said_of(corpus.test, "tree", s, t, "sharp") for s, t in zip((0, 1), texts, strict=False)
    ]
    first = [texts[0] for texts in corpus.test.captions]
    said.append(said_of(corpus.test, "first", 0, first, "sharp"))
    test = replace(corpus.test, targets=corpus.test.targets.roll(1, 0))  # not those of the others
    photos = replace(corpus, categories=[], test=test)
    frame = caption_tables({"caption_scores": pd.concat(said)}, photos, 50)["caption_scores"]
    found = frame.set_index(["references", "system", "metric"]).sort_index()
    pd.testing.assert_series_equal(*(found["mean"]["other", name] for name in ("first", HUMAN)))
    assert found["mean"]["all", "tree", "BLEU-1"] > 0.999
    assert found.seeds["all", "tree", "BLEU-1"] == 2
    assert found["mean"]["other", "tree", "BLEU-1"] < 0.999  # the first seed's is no reference
    assert ("all", HUMAN, "CIDEr") not in found.index and found.seeds["other", HUMAN, "CIDEr"] == 0
    assert found["mean"]["all", RANDOM, "CIDEr"] < found["mean"]["other", HUMAN, "CIDEr"]
    known = frame[frame.metric != "METEOR"]
    assert (known.low <= known["mean"]).all()
    assert frame[frame.metric == "METEOR"]["mean"].isna().all()
