"""Comparisons of arms on made-up scores whose differences are known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from s3e.evaluation import gains
from s3e.evaluation.statistics import holm, paired_interval
from s3e.report import tables
from s3e.utils import S3EError

ARMS = {
    "baseline": 0.0,
    "full": 0.4,
    "no_semantics_loss": 0.1,
    "shuffled": -0.1,
    "oracle": 0.5,
    "oracle_map": 1.0,
}
IDS = [f"{number:03}" for number in range(40)]
SEVERE = {"split": "test", "severity": "severe"}


def study(
    seeds: dict[str, int], severities=("light", "severe"), ids=IDS, arms=ARMS
) -> pd.DataFrame:
    """Per-image scores: `seeds` of an arm, 3 where none are given; the input's PSNR rises with the place in `ids`."""
    generator = np.random.default_rng(0)
    rows = []
    for severity in severities:
        for variant, gain in arms.items():
            for seed in range(seeds.get(variant, 3)):
                noise = generator.normal(0, 0.05, len(ids))
                for place, name in enumerate(ids):
                    psnr = 20 + 0.1 * place + gain * (severity != "light") + noise[place]
                    row = {
                        "variant": variant,
                        "seed": seed,
                        "split": "test",
                        "severity": severity,
                        "id": name,
                    }
                    row |= {
                        "psnr": psnr,
                        "ssim": psnr / 40,
                        "psnr_blurred": 18 + 0.1 * place,
                        "ssim_blurred": 0.4,
                    }
                    rows.append(row)
    return pd.DataFrame(rows)


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
    row = pick(differences, **SEVERE, variant="full", reference="baseline", metric="psnr")
    own = scores.query("severity == 'severe'").pivot(
        index=["seed", "id"], columns="variant", values="psnr"
    )
    gain = (own.full - own.baseline).unstack().to_numpy()
    assert tuple(row[["mean", "low", "high"]]) == pytest.approx(
        paired_interval(gain, resamples=1000)
    )
    assert (row.seeds, row.images, row.clusters) == (3, 40, 40)


def test_holm_is_over_the_comparisons_that_ask_the_same(differences):
    rows = differences.query("severity == 'light' and metric == 'psnr' and seeds > 1")
    family = rows[rows.family == "full"]
    assert set(family.reference) == {"baseline", "no_semantics_loss"}  # shuffled has one seed
    expected = holm(family[["p_interval", "p_wilcoxon"]].max(axis=1))
    assert family.p_holm.to_numpy() == pytest.approx(expected)
    assert set(rows[rows.family == "told"].variant) == {"oracle", "oracle_map"}
    assert set(rows[rows.reference == "blurred"].family) == {"input"}


def test_one_seed_makes_no_claim(differences):
    row = pick(differences, **SEVERE, variant="full", reference="shuffled", metric="psnr")
    assert row.seeds == 1 and np.isnan(row.p_holm) and row.p_wilcoxon < 0.01
    assert gains.significant(row) == 1  # of new images, by the interval


def test_what_is_told_follows_the_corrected_p_value():
    row = pd.Series({"mean": 0.2, "low": 0.01, "high": 0.4, "seeds": 3, "p_holm": 0.08})
    assert gains.significant(row) == 0 and gains.significant(row.replace(0.08, 0.04)) == 1
    assert (
        gains.significant(
            pd.Series({"mean": -0.2, "low": -0.3, "high": -0.1, "seeds": 1, "p_holm": np.nan})
        )
        == -1
    )


def test_best_is_marked_only_where_it_is_told_from_all_others(scores):
    marked = gains.image_scores(scores, 1000).query("best")
    assert set(marked.variant) == {"full"} and set(marked.severity) == {"severe"}  # never an oracle
    assert (marked.best_p < 0.05).all()
    assert "**" in tables.deblurring(gains.image_scores(scores, 1000)).cells.set_index("method").loc[
        "S3E-Deblur (full)", "severe PSNR"
    ]  # fmt: skip
    one = gains.image_scores(study(dict.fromkeys(ARMS, 1)), 200)
    assert not one.best.any()


def test_the_best_must_beat_the_input_too(scores):
    worse = scores.assign(psnr_blurred=scores.psnr_blurred + 5)
    assert not gains.image_scores(worse, 500).query("metric == 'psnr'").best.any()


def test_classical_rows_stand_beside_the_arms_and_are_never_best(scores):
    told = pd.DataFrame(
        [{**SEVERE, "id": name, "variant": "wiener", "psnr": 40.0, "ssim": 0.9} for name in IDS]
    )
    frame = gains.image_scores(scores, 200, told)
    row = pick(frame, **SEVERE, variant="wiener", metric="psnr")
    assert row["mean"] == 40 and row.seeds == 1 and not row.best
    assert pick(frame, **SEVERE, variant="full", metric="psnr").best
    names = list(tables.deblurring(frame).cells.method)
    assert names[:2] == ["blurred input", "Wiener, true kernel"]
    assert any("kernel" in note for note in tables.deblurring(frame).notes)
    assert "tree of another image (one seed, no claim)" in names


def test_frames_of_videos_are_resampled_by_video():
    ids = [f"video{number // 10}/{number:03}" for number in range(40)]
    pairs = study({}, severities=("released", "severe"), ids=ids)
    shift = (
        pairs.id.str[5].astype(int) * 0.2 * (pairs.variant == "full")
    )  # the gain differs between videos alone
    pairs["psnr"] += shift
    row = pick(
        gains.differences(pairs, 1000),
        **SEVERE,
        variant="full",
        reference="baseline",
        metric="psnr",
    )
    photos = pairs.assign(severity=pairs.severity.replace("released", "light"))
    free = pick(
        gains.differences(photos, 1000),
        **SEVERE,
        variant="full",
        reference="baseline",
        metric="psnr",
    )
    assert (row.images, row.clusters, free.clusters) == (40, 4, 40)
    assert row.high - row.low > 2 * (free.high - free.low)
    assert "over 4 videos" in tables.gopro(gains.image_scores(pairs, 200)).caption


def test_closing_is_the_share_of_the_gap(scores):
    frame = gains.closing(scores, 1000)
    assert set(frame.severity) == {"severe"}  # under light blur the oracle gains nothing
    row = pick(frame, **SEVERE, variant="full")
    assert (
        row["mean"] == pytest.approx(0.4, abs=0.02) and row.low < 0.4 < row.high and row.seeds == 3
    )
    assert pick(frame, variant="shuffled").seeds == 1
    table = tables.closing(frame, gains.differences(scores, 200))
    assert list(table.cells.variant)[-1] == "tree of the sharp image (oracle)"
    assert gains.closing(scores[scores.variant != "oracle_map"], 200).empty


def test_what_the_category_adds_is_said_where_silhouettes_were_tried():
    frame = study({}, arms={**ARMS, "oracle_silhouette": 0.7})
    table = tables.closing(gains.closing(frame, 300), gains.differences(frame, 300))
    assert any(
        "add to the outline of all things together, under severe blur: +0.3" in note
        for note in table.notes
    )
    assert not any("outline" in note for note in tables.closing(gains.closing(frame, 300), pd.DataFrame(
        columns=["split", "severity", "variant", "reference", "metric"])).notes)  # fmt: skip


def write_validation(root: Path, variant: str, seed: int, rise: float) -> Path:
    folder = (
        root / ("05_co_training" if variant == "full" else "06_ablation") / f"{variant}-s{seed}"
    )
    folder.mkdir(parents=True)
    steps = np.arange(100, 501, 100)
    pd.DataFrame({"step": steps, "score": 20 + rise * steps / 500}).to_csv(
        folder / "validation_cotrain.csv", index=False
    )
    return folder


def test_closing_by_update_reads_validations(tmp_path):
    arms = {"baseline": 0.0, "full": 0.5, "oracle_map": 1.0}
    folders = [
        write_validation(tmp_path, name, seed, rise)
        for name, rise in arms.items()
        for seed in (0, 1)
    ]
    frame = gains.closing_by_step([*folders, tmp_path / "06_ablation" / "shuffled-s0"])
    last = pick(frame, variant="full", seed=1, step=500)
    assert last.gain == pytest.approx(0.5) and last.share == pytest.approx(0.5)
    assert frame[frame.variant == "oracle_map"].share.isna().all() and "baseline" not in set(
        frame.variant
    )
    frozen = write_validation(tmp_path, "frozen", 1, 0.25)  # an arm of one seed leaves holes
    holes = gains.closing_by_step([*folders, frozen])
    assert pick(holes, variant="frozen", seed=1, step=500).share == pytest.approx(0.25)
    assert pick(holes, variant="full", seed=1, step=500).share == pytest.approx(0.5)
    assert gains.closing_by_step(folders[2:]).empty and gains.closing_by_step([]).empty


def test_falsifier_keeps_the_decisive_comparisons(differences):
    lots = gains.differences(study(dict.fromkeys(ARMS, 1), arms={**ARMS, "full": 0.05}), 200)
    frame = gains.texture_control(differences, lots)
    assert set(zip(frame.variant, frame.reference, strict=True)) <= set(gains.TEXTURE_PAIRS)
    cells = tables.texture_control(frame).cells.set_index(["textures", "difference"])
    ours = "S3E-Deblur (full) − baseline (no semantics)"
    assert cells.loc[("of the category", ours), "PSNR (dB)"].startswith("+0.4")
    assert cells.loc[("random", ours), "seeds"] == "one seed, no claim"


def test_parts_of_the_method_are_a_family_of_their_own():
    arms = {
        "baseline": 0.0,
        "full": 0.4,
        "pretrained_only": 0.4,
        "no_semantics_loss": 0.3,
        "shuffled": 0.1,
    }
    frame = gains.differences(study(dict.fromkeys(arms, 2), arms=arms), 200)
    own = frame.query(
        "variant == 'full' and metric == 'psnr' and severity == 'severe' and split == 'test'"
    )
    families = own.set_index("reference").family
    assert (
        families["pretrained_only"] == "parts"
        and families["no_semantics_loss"] == families["shuffled"] == "full"
    )
    assert ("no_semantics_loss", "shuffled") in set(
        zip(frame.variant, frame.reference, strict=True)
    )


def test_each_seed_has_its_gain(scores, differences):
    each = gains.by_seed(scores).query(
        "severity == 'severe' and metric == 'psnr' and variant == 'full'"
    )
    own = each[each.reference == "baseline"]
    whole = pick(differences, **SEVERE, variant="full", reference="baseline", metric="psnr")
    assert list(own.seed) == [0, 1, 2] and own["mean"].mean() == pytest.approx(whole["mean"])


def test_bins_are_thirds_sorted_by_the_input(scores):
    rows = gains.bins(scores, 200).query(
        "severity == 'severe' and variant == 'full' and reference == 'blurred'"
    )
    assert list(rows.bin) == [1, 2, 3] and list(rows.images) == [14, 13, 13]
    assert (rows.input_high.to_numpy()[:-1] < rows.input_low.to_numpy()[1:]).all()
    table = tables.gains(gains.differences(scores, 200), gains.bins(scores, 200))
    row = table.cells.set_index("variant").loc["S3E-Deblur (full)"]
    assert row.str.startswith("+0.4").any() and len(row) == scores.severity.nunique() + 3


def test_only_shared_seeds_are_compared_and_other_photos_refused(scores):
    lone = scores[(scores.variant != "full") | (scores.seed == 2)]
    row = pick(
        gains.differences(lone, 100), **SEVERE, variant="full", reference="baseline", metric="psnr"
    )
    assert row.seeds == 1
    with pytest.raises(S3EError, match="same images"):
        gains.differences(scores[(scores.variant != "full") | (scores.id != IDS[0])], 100)
    with pytest.raises(S3EError, match="the runs of 'full'"):
        gains.differences(
            scores[(scores.variant != "full") | (scores.id != IDS[0]) | (scores.seed > 0)], 100
        )
