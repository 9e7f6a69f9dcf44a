"""Comparisons of variants on made-up scores whose differences are known; what training may have
seen of the test.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from s3e.data.corpus import load_corpus
from s3e.evaluation import collect, gains
from s3e.evaluation.statistics import holm, paired_interval
from s3e.utils import S3EError

VARIANTS = {
    "baseline": 0.0,
    "full": 0.4,
    "no_semantics_loss": 0.1,
    "shuffled": -0.1,
    "oracle": 0.5,
    "oracle_map": 1.0,
}
IDS = [f"{number:03}" for number in range(40)]
SEVERE = {"split": "test", "severity": "severe"}
FULL = {**SEVERE, "variant": "full", "reference": "baseline", "metric": "psnr"}


def study(seeds=(), severities=("light", "severe"), ids=IDS, variants=VARIANTS) -> pd.DataFrame:
    """Per-image scores: `seeds` of a variant, 3 where none are given; the input's PSNR rises with
    the place in `ids`.
    """
    generator, place, frames = np.random.default_rng(0), np.arange(len(ids)), []
    for severity in severities:
        for variant, gain in variants.items():
            for seed in range(dict(seeds).get(variant, 3)):
                noise = generator.normal(0, 0.05, len(ids))
                psnr = 20 + 0.1 * place + gain * (severity != "light") + noise
                labels = {"variant": variant, "seed": seed, "split": "test", "severity": severity}
                scores = {"id": ids, "psnr": psnr, "ssim": psnr / 40}
                inputs = {"psnr_blurred": 18 + 0.1 * place, "ssim_blurred": 0.4}
                frames.append(pd.DataFrame(labels | scores | inputs))
    return pd.concat(frames, ignore_index=True)


def pick(frame: pd.DataFrame, **wanted) -> pd.Series:
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1
    return frame.iloc[0]


@pytest.fixture(scope="module")
def scores():
    return study({"shuffled": 1})


@pytest.fixture(scope="module")
def differences(scores):
    return gains.differences(scores, 1000)


def test_differences_are_paired_and_counted(scores, differences):
    row = pick(differences, **FULL)
    own = scores[scores.severity == "severe"].pivot(
        index=["seed", "id"], columns="variant", values="psnr"
    )
    gain = (own.full - own.baseline).unstack().to_numpy()
    expected = paired_interval(gain, resamples=1000)
    assert tuple(row[["mean", "low", "high"]]) == pytest.approx(expected)
    assert (row.seeds, row.images, row.clusters) == (3, 40, 40)
    each = gains.by_seed(scores)
    for name, value in FULL.items():
        each = each[each[name] == value]
    assert list(each.seed) == [0, 1, 2] and list(each["mean"]) == pytest.approx(gain.mean(1))


def test_holm_is_over_the_comparisons_that_ask_the_same(differences):
    rows = differences.query("severity == 'light' and metric == 'psnr' and seeds > 1")
    family = rows[rows.family == "full"]
    assert set(family.reference) == {"baseline", "no_semantics_loss"}  # shuffled has one seed
    expected = holm(family[["p_interval", "p_wilcoxon"]].max(axis=1))
    assert family.p_holm.to_numpy() == pytest.approx(expected)
    assert set(rows[rows.family == "oracles"].variant) == {"oracle", "oracle_map"}
    assert set(rows[rows.reference == "blurred"].family) == {"input"}
    parts = gains.differences(
        study(variants={"full": 0.4, "pretrained_only": 0.4, "frozen": 0}), 99
    )
    assert set(parts[parts.reference == "pretrained_only"].family) == {"parts"}
    assert set(parts[parts.variant == "frozen"].family) == {"input"}


def test_one_seed_makes_no_claim(differences):
    row = pick(differences, **{**FULL, "reference": "shuffled"})
    assert row.seeds == 1 and np.isnan(row.p_holm) and row.p_wilcoxon < 0.01
    assert gains.significant(row) == 1  # of new images, by the interval


def test_significance_follows_the_corrected_p_value():
    row = pd.Series({"mean": 0.2, "low": 0.01, "high": 0.4, "seeds": 3, "p_holm": 0.08})
    assert gains.significant(row) == 0 and gains.significant(row.replace(0.08, 0.04)) == 1
    one = {"mean": -0.2, "low": -0.3, "high": -0.1, "seeds": 1, "p_holm": np.nan}
    assert gains.significant(pd.Series(one)) == -1


def test_best_is_marked_only_where_it_differs_from_all_others_and_the_input(scores):
    frame = gains.image_scores(scores, 1000)
    marked = frame[frame.best]
    assert set(marked.variant) == {"full"} and set(marked.severity) == {"severe"}  # never an oracle
    assert (marked.best_p < 0.05).all() and frame[~frame.best].best_p.isna().all()
    assert not gains.image_scores(study(dict.fromkeys(VARIANTS, 1)), 200).best.any()
    worse = scores.assign(psnr_blurred=scores.psnr_blurred + 5)
    assert not gains.image_scores(worse, 500).query("metric == 'psnr'").best.any()


def test_classical_rows_stand_beside_the_variants_and_are_never_best(scores):
    wiener = {**SEVERE, "id": IDS, "variant": "wiener", "psnr": 40.0, "ssim": 0.9}
    frame = gains.image_scores(scores, 200, pd.DataFrame(wiener))
    row = pick(frame, **SEVERE, variant="wiener", metric="psnr")
    assert row["mean"] == 40 and row.seeds == 1 and not row.best
    assert pick(frame, **SEVERE, variant="full", metric="psnr").best
    assert pick(frame, **SEVERE, variant="blurred", metric="psnr")["mean"] == pytest.approx(19.95)
    assert "wiener" not in set(frame[frame.severity == "light"].variant)


def test_frames_of_videos_are_resampled_by_video():
    ids = [f"video{number // 10}/{number:03}" for number in range(40)]
    pairs = study(severities=("released", "severe"), ids=ids)
    video = pairs.id.str[5].astype(int)
    pairs["psnr"] += (
        video * 0.2 * (pairs.variant == "full")
    )  # the gain differs between videos alone
    row = pick(gains.differences(pairs, 1000), **FULL)
    photos = pairs.assign(severity=pairs.severity.replace("released", "light"))
    free = pick(gains.differences(photos, 1000), **FULL)
    assert (row.images, row.clusters, free.clusters) == (40, 4, 40)
    assert row.high - row.low > 2 * (free.high - free.low)


def test_closing_is_the_share_of_the_gap(scores):
    frame = gains.closing(scores, 1000)
    assert set(frame.severity) == {"severe"}  # under light blur the oracle gains nothing
    row = pick(frame, **SEVERE, variant="full")
    assert row["mean"] == pytest.approx(0.4, abs=0.02) and row.low < 0.4 < row.high
    assert row.seeds == 3 and pick(frame, variant="shuffled").seeds == 1
    assert gains.closing(scores[scores.variant != "oracle_map"], 200).empty


def write_validation(root: Path, variant: str, seed: int, rise: float) -> Path:
    stage = "05_co_training" if variant == "full" else "06_ablation"
    folder, steps = root / stage / f"{variant}-s{seed}", np.arange(100, 501, 100)
    folder.mkdir(parents=True)
    scores = pd.DataFrame({"step": steps, "score": 20 + rise * steps / 500})
    scores.to_csv(folder / "validation_cotrain.csv", index=False)
    return folder


def test_closing_by_step_reads_validations(tmp_path):
    rises = {"baseline": 0.0, "full": 0.5, "oracle_map": 1.0}
    folders = [write_validation(tmp_path, n, s, rise) for n, rise in rises.items() for s in (0, 1)]
    folders.append(write_validation(tmp_path, "frozen", 1, 0.25))  # one seed leaves holes
    frame = gains.closing_by_step([*folders, tmp_path / "06_ablation" / "shuffled-s0"])
    last = pick(frame, variant="full", seed=1, step=500)
    assert last.gain == pytest.approx(0.5) and last.share == pytest.approx(0.5)
    assert pick(frame, variant="frozen", seed=1, step=500).share == pytest.approx(0.25)
    assert frame[frame.variant == "oracle_map"].share.isna().all()
    assert "baseline" not in set(frame.variant)
    assert gains.closing_by_step(folders[2:]).empty and gains.closing_by_step([]).empty


def test_the_texture_control_keeps_the_decisive_comparisons(differences):
    random = gains.differences(study(variants={**VARIANTS, "full": 0.05}), 200)
    frame = gains.texture_control(differences, random)
    pairs = set(zip(frame.variant, frame.reference, strict=True))
    assert pairs <= set(gains.TEXTURE_PAIRS) and ("full", "baseline") in pairs
    assert pick(frame, texture="category", **FULL)["mean"] == pytest.approx(0.4, abs=0.03)
    assert pick(frame, texture="random", **FULL)["mean"] == pytest.approx(0.05, abs=0.03)


def test_bins_are_thirds_sorted_by_the_input(scores):
    rows = gains.bins(scores, 200)
    rows = rows[
        (rows.severity == "severe") & (rows.variant == "full") & (rows.reference == "blurred")
    ]
    assert list(rows.bin) == [1, 2, 3] and list(rows.images) == [14, 13, 13]
    assert (rows.input_high.to_numpy()[:-1] < rows.input_low.to_numpy()[1:]).all()


def test_only_shared_seeds_are_compared_and_other_images_refused(scores):
    lone = scores[(scores.variant != "full") | (scores.seed == 2)]
    assert pick(gains.differences(lone, 100), **FULL).seeds == 1
    gone = (scores.variant == "full") & (scores.id == IDS[0])
    with pytest.raises(S3EError, match="same images"):
        gains.differences(scores[~gone], 100)
    with pytest.raises(S3EError, match="the runs of 'full'"):
        gains.differences(scores[~(gone & (scores.seed == 0))], 100)


# ---------------------------------------------------------------------- what training may have seen


@pytest.fixture
def photos(corpus):
    """A corpus whose second test image is a training image's mirror image; whose ids are
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


def test_mirrored_copies_series_and_known_captions_are_suspected(corpus, photos):
    found = collect.leakage_suspects(photos)
    assert found.likeness[1] == pytest.approx(1, abs=1e-5) and found.alike[1]
    assert list(np.flatnonzero(found.series)) == [4] and found.distance[4] == 7
    assert list(np.flatnonzero(found.said)) == [6]
    photos.train.ids = [str(100 * (i + 1)) for i in range(len(photos.train))]  # all are close
    for item in (photos, corpus):  # ids of the corpus are no numbers
        found = collect.leakage_suspects(item)
        assert found.distance.isna().all() and not found.series.any()


def test_gains_without_the_suspects():
    scores = study(severities=("severe",), ids=IDS[:8])
    suspected = {name: np.array(IDS[:8]) == IDS[at] for at, name in enumerate(collect.SUSPECTS)}
    scores["psnr"] += 2.0 * ((scores.variant == "full") & (scores.id == IDS[0]))
    found = pd.DataFrame({"id": IDS[:8], **suspected})
    frame = gains.without_suspects(scores, found, "severe", 100)
    over = frame[frame.reference == "baseline"].set_index("left_out")
    assert list(over.photos) == [0, 1, 1, 1, 3, 5] and list(over.images) == [8, 7, 7, 7, 5, 3]
    expected = [0.4 + 2 / 8, 0.4, 0.4 + 2 / 7, 0.4 + 2 / 7, 0.4, 0.4 + 2 / 3]
    assert list(over["mean"]) == pytest.approx(expected, abs=0.06)
