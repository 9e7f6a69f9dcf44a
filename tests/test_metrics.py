"""PSNR and SSIM: against scikit-image and their definitions, over sizes, ranges and kinds of numbers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import convolve1d
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from s3e.evaluation import collect
from s3e.evaluation import images as definitions
from s3e.evaluation import images as image
from s3e.evaluation.images import definition_scores, psnr, score_batch, ssim, swapped, to_uint8
from s3e.report.tables import definitions as table
from s3e.report.tables import markdown


def gaussian_ssim(x, y):
    """SSIM of Wang et al. written out: 11 x 11 Gaussian window, population moments, valid windows only."""
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()

    def blur(z):
        return convolve1d(convolve1d(z, taps, 0), taps, 1)[5:-5, 5:-5]

    x, y = x.astype(float), y.astype(float)
    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return np.mean((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))


def by_skimage(x, y, data_range):
    """PSNR and SSIM of scikit-image with the settings that the protocol names, in double precision."""
    x, y = (item if item.dtype == np.uint8 else item.astype(float) for item in (x, y))
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    similarity = structural_similarity(x, y, channel_axis=-1, data_range=data_range, **settings)
    return peak_signal_noise_ratio(y, x, data_range=data_range), similarity


@pytest.fixture(scope="module")
def pair():
    sharp = data.astronaut()[100:228, 150:278]
    blurred = np.rint(
        convolve1d(sharp.astype(float), np.ones(15) / 15, axis=1, mode="reflect")
    ).astype(np.uint8)
    return blurred, sharp


def test_psnr_and_ssim_by_definition(pair):
    error = np.mean((pair[0].astype(float) - pair[1]) ** 2)
    assert psnr(*pair) == pytest.approx(10 * np.log10(255**2 / error), abs=1e-9)
    assert ssim(*pair) == pytest.approx(gaussian_ssim(*pair), abs=1e-9)
    assert ssim(*pair) == pytest.approx(ssim(pair[1], pair[0]), abs=1e-9)


SIZES = [(11, 11), (12, 40), (64, 64), (74, 33), (75, 129), (139, 11), (203, 150), (256, 320)]


@pytest.mark.parametrize("height, width", SIZES)
def test_every_size_equals_scikit_image(height, width):
    generator = np.random.default_rng(height * width)
    sharp = data.astronaut()[:height, :width]
    near = np.clip(sharp + generator.normal(0, 9, sharp.shape), 0, 255).astype(np.uint8)
    noise = generator.integers(0, 256, sharp.shape, np.uint8)
    bright = np.where(noise < 128, 254, 255).astype(
        np.uint8
    )  # nearly flat: single precision would be off by 1e-5
    for first, second in [(near, sharp), (noise, sharp), (bright, np.full_like(bright, 255))]:
        expected = by_skimage(first, second, 255)
        assert (psnr(first, second), ssim(first, second)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("low, high", [(0, 1), (-1, 1), (0, 255), (0, 4095)])
def test_every_range_and_precision_equals_scikit_image(pair, dtype, low, high):
    first, second = ((image / 255 * (high - low) + low).astype(dtype) for image in pair)
    expected = by_skimage(first, second, high - low)
    assert (psnr(first, second, high - low), ssim(first, second, high - low)) == pytest.approx(
        expected, abs=1e-6
    )


def test_one_picture_scores_the_same_as_bytes_and_as_floats(pair):
    unit = [image / 255 for image in pair]
    signed = [image / 127.5 - 1 for image in pair]
    assert psnr(*unit, 1) == pytest.approx(psnr(*pair), abs=1e-9)
    assert psnr(*signed, 2) == pytest.approx(psnr(*pair), abs=1e-9)
    assert ssim(*unit, 1) == pytest.approx(ssim(*pair), abs=1e-9)
    assert ssim(*signed, 2) != pytest.approx(
        ssim(*pair), abs=1e-3
    )  # SSIM's luminance term wants black at 0


def test_pictures_need_not_lie_in_one_piece_of_memory(pair):
    turned = [image[::-2, ::3].transpose(1, 0, 2) for image in pair]
    assert ssim(*turned) == pytest.approx(ssim(*map(np.ascontiguousarray, turned)), abs=1e-12)


def test_the_protocol_is_what_is_computed(pair, monkeypatch):
    words = image.PROTOCOL
    assert words == image.Protocol().sentence
    for part in (
        "RGB",
        "clamped and rounded to 8 bit",
        "range 255",
        "11 x 11",
        "sigma 1.5",
        "100 dB",
        "no border",
    ):
        assert part in words
    other = replace(image.DEFINITION, window=7, sigma=1.0)
    before = ssim(*pair)
    monkeypatch.setattr(image, "DEFINITION", other)
    assert ssim(*pair) != pytest.approx(before, abs=1e-4)
    assert "7 x 7 Gaussian window (sigma 1)" in other.sentence


def test_identical_images_and_one_grey_level(pair):
    sharp = pair[1]
    assert psnr(sharp, sharp) == 100 and ssim(sharp, sharp) == 1
    one_off = sharp.copy()
    one_off[0, 0, 0] ^= 1
    assert psnr(one_off, sharp) < 100
    assert psnr(sharp / 255 + 1e-9, sharp / 255, 1) == 100
    flat = np.full((32, 32, 3), 100, np.uint8)
    assert psnr(flat, flat + np.uint8(1)) == pytest.approx(48.1308, abs=1e-4)


def test_a_batch_is_scored_image_by_image(pair):
    restored, sharp = np.stack([pair[0], pair[1]]), np.stack([pair[1], pair[1]])
    scores = score_batch(restored, sharp)
    np.testing.assert_allclose(scores["psnr"], [psnr(*pair), 100])
    np.testing.assert_allclose(scores["ssim"], [ssim(*pair), 1])


def test_rounding_and_clamping():
    assert to_uint8(np.array([-2, -1, 0, 1, 3]), low=-1).tolist() == [0, 0, 128, 255, 255]
    assert to_uint8(np.array([-0.1, 0.499 / 255, 0.501 / 255, 1.2]), low=0).tolist() == [
        0,
        0,
        1,
        255,
    ]
    levels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(to_uint8((levels / 127.5 - 1).astype(np.float32), low=-1), levels)
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(np.array([np.nan]), low=0)


def test_bad_images_are_refused(pair):
    unit = [image / 255 for image in pair]
    for measure in (psnr, ssim):
        with pytest.raises(ValueError, match="use to_uint8"):
            measure(pair[0] / 255, pair[1])
        with pytest.raises(ValueError, match="use to_uint8"):
            measure(unit[0], pair[1], 1)
        with pytest.raises(ValueError, match="give floats a data_range"):
            measure(*unit)
        with pytest.raises(ValueError, match="diverged"):
            measure(unit[0] * np.nan, unit[1], 1)
        with pytest.raises(ValueError, match="in common"):
            measure(pair[0][:50], pair[1])
    with pytest.raises(ValueError, match="use to_uint8"):
        score_batch(unit[0][None], unit[1][None])
    with pytest.raises(ValueError, match="in common"):
        score_batch(np.stack(pair), pair[1][None])
    with pytest.raises(ValueError, match="11-pixel"):
        ssim(pair[0][:10], pair[1][:10])


# ------------------------------------------------------------------------------------------- definitions in use (07b)

MEASURED = {  # on the astronaut pair, with the libraries named in the definitions
    ("psnr", "this suite"): 22.751, ("psnr", "pooled over images"): 22.751, ("ssim", "this suite"): 0.7226,
    ("ssim", "scikit-image default"): 0.7303, ("ssim", "sample covariance"): 0.7221,
    ("ssim", "floats, range 2"): 0.8062, ("ssim", "grey first"): 0.7365, ("ssim", "Y channel"): 0.7648,
    ("ssim", "border counted"): 0.7287, ("ssim", "through colour"): 0.8259,
}  # fmt: skip


@pytest.fixture(scope="module")
def astronaut():
    blurred, sharp = definitions.astronaut()
    return np.rint(blurred).astype(np.uint8), sharp


def test_every_definition_gives_the_number_of_its_library(astronaut):
    scores = definition_scores({"blurred": astronaut[0][None]}, astronaut[1][None])
    found = {(row.metric, row.definition): row.value for row in scores.itertuples()}
    assert len(found) == len(definitions.DEFINITIONS)
    for key, expected in MEASURED.items():
        assert found[key] == pytest.approx(
            expected, abs=0.6 * 10 ** -len(str(expected).split(".")[1])
        ), key


def test_luma_and_border_by_definition(astronaut):
    found = {(item.metric, item.name): item.score(*astronaut) for item in definitions.DEFINITIONS}
    y = [
        (65.481 * item[..., 0] + 128.553 * item[..., 1] + 24.966 * item[..., 2]) / 255
        for item in astronaut
    ]
    assert found["psnr", "Y channel"] == pytest.approx(
        10 * np.log10(255**2 / np.mean((y[0] - y[1]) ** 2)), abs=1e-9
    )
    inner = [item[4:-4, 4:-4] for item in astronaut]
    assert found["psnr", "border of 4 px cropped"] == pytest.approx(psnr(*inner), abs=1e-9)


def test_pooling_is_not_averaging():
    flat = np.full((2, 12, 12, 3), 100, np.uint8)
    off = flat + np.array([1, 9], np.uint8)[:, None, None, None]
    scores = (
        definition_scores({"off": off, "same": flat}, flat)
        .set_index(["variant", "metric", "definition"])
        .value
    )
    each = [20 * np.log10(255 / step) for step in (1, 9)]
    assert scores["off", "psnr", "this suite"] == pytest.approx(np.mean(each))
    assert scores["off", "psnr", "pooled over images"] == pytest.approx(10 * np.log10(255**2 / 41))
    assert scores["same", "psnr", "pooled over images"] == 100


def test_rounding_costs_less_than_truncating():
    sharp = data.astronaut()[:64, 100:164]
    floats = np.clip(sharp + np.random.default_rng(0).normal(0, 1.5, sharp.shape), 0, 255)
    found = definitions.rounding(floats, sharp)
    assert found["floats"] > found["rounded"] > found["truncated"] + 0.3
    assert found["rounded"] == psnr(to_uint8(floats, 0, 255), sharp)


def frame(**values):
    """A made-up `definitions.csv`: variant -> (PSNR by all definitions but one, PSNR of the Y channel)."""
    rows = []
    for variant, (ours, luma) in values.items():
        for item in definitions.DEFINITIONS:
            value = luma if (item.metric, item.name) == ("psnr", "Y channel") else ours
            rows.append((variant, item.name, item.metric, value))
    return pd.DataFrame(rows, columns=list(definitions.DEFINITION_COLUMNS))


def test_swapped_pairs_are_found_and_told():
    turned = swapped(frame(baseline=(20.0, 25.0), full=(20.5, 24.0), blurred=(10.0, 11.0)))
    row = turned[(turned.metric == "psnr") & (turned.definition == "Y channel")].iloc[0]
    assert row.pairs == "full > baseline" and row.apart == pytest.approx(0.5)
    assert (turned.pairs != "").sum() == 1
    assert (swapped(frame(full=(20.5, 24.0))).pairs == "").all()


def test_table_a1(astronaut):
    made = table(
        frame(baseline=(20.0, 25.0), full=(20.5, 24.0), blurred=(10.0, 11.0)), "Profile x."
    )
    text = markdown(made)
    assert made.name == "tableA1_definitions" and len(made.cells) == len(definitions.DEFINITIONS)
    assert "Profile x." in made.caption and image.PROTOCOL in made.notes
    assert "(PSNR Y channel), none of them further apart than 0.500 dB" in made.notes[0]
    assert (
        made.cells["pairs swapped"].tolist().count("1") == 1
        and "S3E-Deblur" in text
        and "20.50" in text
    )
    alike = table(
        definition_scores(
            {"blurred": astronaut[0][None], "full": astronaut[1][None]}, astronaut[1][None]
        )
    )
    assert "runs from 1.000 to 1.000. All definitions rank the 2 outputs alike." in alike.notes[0]


def test_outputs_are_read_for_the_arms_that_kept_them(corpus, tmp_path, monkeypatch):
    for name in ("full-s0", "baseline-s0", "frozen-s0"):
        (tmp_path / name).mkdir()
    np.save(tmp_path / "full-s0" / "restored_test.npy", np.asarray(corpus.test.sharp))
    np.save(
        tmp_path / "baseline-s0" / "restored_test.npy", np.asarray(corpus.test.blurred["light"])
    )
    monkeypatch.setattr(collect, "DEFINITION_IMAGES", 5)
    outputs, sharp = collect.read_outputs(corpus, sorted(tmp_path.iterdir()), "severe")
    assert list(outputs) == ["blurred", "baseline", "full"] and np.array_equal(
        outputs["full"], sharp
    )
    assert len(sharp) == 5 and np.array_equal(outputs["blurred"], corpus.test.blurred["severe"][:5])
