"""Comparisons of variants whose differences are known."""

import numpy as np
import pandas as pd
import pytest

from s3e.evaluation import gains
from s3e.evaluation.images import LABELS, METRICS
from s3e.evaluation.statistics import compare, holm

VARIANTS = {"baseline": 0.0, "full": 0.4, "no_semantics_loss": 0.1}
VARIANTS |= {"shuffled": -0.1, "oracle": 0.5, "oracle_map": 1.0}
IDS = [f"{number:03}" for number in range(40)]
SEVERE = {"split": "test", "severity": "severe"}
FULL = {**SEVERE, "variant": "full", "reference": "baseline", "metric": "psnr"}


def study(seeds=(), severities=("light", "severe"), ids=IDS, variants=VARIANTS) -> pd.DataFrame:
    """Long frame: `seeds` of a variant, else 3; the input's PSNR rises with the place in `ids`."""
    generator, place, frames = np.random.default_rng(0), np.arange(len(ids)), []
    for severity in severities:
        for variant, gain in {"blurred": -2.0, **variants}.items():
            for seed in range(1 if variant == "blurred" else dict(seeds).get(variant, 3)):
                noise = generator.normal(0, 0.05, len(ids)) * (variant != "blurred")
                psnr = 20 + 0.1 * place + gain * (variant == "blurred" or severity != "light")
                labels = {"variant": variant, "seed": seed, "split": "test", "severity": severity}
                scores = {"id": ids, "video": ids, "psnr": psnr + noise, "ssim": psnr / 40}
                frames.append(pd.DataFrame(labels | scores))
    return pd.concat(frames).melt(LABELS, METRICS, "metric")


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
    own = scores.query("severity == 'severe' and metric == 'psnr'").pivot(
        index=["seed", "id"], columns="variant", values="value"
    )
    gain = (own.full - own.baseline).unstack().to_numpy()
    expected = compare(gain, resamples=1000)[:3]
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
    variants = {"full": 0.4, "pretrained_only": 0.4, "frozen": 0}
    parts = gains.differences(study(variants=variants), 99)
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


def test_frames_of_videos_are_resampled_by_video():
    ids = [f"video{number // 10}/{number:03}" for number in range(40)]
    photos = study(severities=("severe",), ids=ids)
    video = photos.id.str[5].astype(int)
    photos["value"] += video * 0.2 * (photos.variant == "full")  # the gain differs between videos
    pairs = photos.assign(video=photos.id.str.rpartition("/")[0])
    row, free = (pick(gains.differences(frame, 1000), **FULL) for frame in (pairs, photos))
    assert (row.images, row.clusters, free.clusters) == (40, 4, 40)
    assert row.high - row.low > 2 * (free.high - free.low)


def test_the_texture_control_keeps_the_decisive_comparisons(differences):
    random = gains.differences(study(variants={**VARIANTS, "full": 0.05}), 200)
    frame = gains.texture_control(differences, random)
    pairs = set(zip(frame.variant, frame.reference, strict=True))
    assert pairs <= set(gains.TEXTURE_PAIRS.itertuples(index=False, name=None))
    assert ("full", "baseline") in pairs
    assert pick(frame, texture="category", **FULL)["mean"] == pytest.approx(0.4, abs=0.03)
    assert pick(frame, texture="random", **FULL)["mean"] == pytest.approx(0.05, abs=0.03)


def test_only_shared_seeds_are_compared_and_other_images_refused(scores):
    lone = scores[(scores.variant != "full") | (scores.seed == 2)]
    assert pick(gains.differences(lone, 100), **FULL).seeds == 1
    gone = (scores.variant == "full") & (scores.id == IDS[0])
    with pytest.raises(ValueError, match="must be finite"):
        gains.differences(scores[~gone], 100)
