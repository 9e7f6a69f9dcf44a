"""PSNR and SSIM against scikit-image, and other definitions."""

import numpy as np
import pandas as pd
import pytest
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from s3e.blur import blur_image
from s3e.evaluation import collect
from s3e.evaluation.images import (
    DEFINITIONS,
    agreement,
    definition_scores,
    psnr,
    score_batch,
    ssim,
)
from s3e.utils import to_uint8


def by_skimage(x, y, data_range):
    """PSNR and SSIM of scikit-image with the protocol's settings, in double precision."""
    x, y = (item if item.dtype == np.uint8 else item.astype(float) for item in (x, y))
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    similarity = structural_similarity(x, y, channel_axis=-1, data_range=data_range, **settings)
    return peak_signal_noise_ratio(y, x, data_range=data_range), similarity


@pytest.fixture(scope="module")
def pair():
    sharp = data.astronaut()[:256, 100:356]
    blurred = blur_image(sharp / 255, np.full((1, 15), 1 / 15)) * 255
    return np.rint(blurred).astype(np.uint8), sharp


SIZES = [(11, 11), (12, 40), (64, 64), (139, 11), (203, 150), (256, 320)]


@pytest.mark.parametrize("height, width", SIZES)
def test_every_size_equals_scikit_image(height, width):
    generator = np.random.default_rng(height * width)
    sharp = data.astronaut()[:height, :width]
    near = np.clip(sharp + generator.normal(0, 9, sharp.shape), 0, 255).astype(np.uint8)
    noise = generator.integers(0, 256, sharp.shape, np.uint8)
    bright = np.where(noise < 128, 254, 255).astype(np.uint8)  # nearly flat: needs float64
    for first, second in [(near, sharp), (noise, sharp), (bright, np.full_like(bright, 255))]:
        expected = by_skimage(first, second, 255)
        assert (psnr(first, second), ssim(first, second)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("low, high", [(0, 1), (-1, 1), (0, 4095)])
def test_every_range_and_precision_equals_scikit_image(pair, dtype, low, high):
    first, second = ((image / 255 * (high - low) + low).astype(dtype) for image in pair)
    found = psnr(first, second, high - low), ssim(first, second, high - low)
    assert found == pytest.approx(by_skimage(first, second, high - low), abs=1e-6)


def test_identical_images_and_one_grey_level(pair):
    sharp = pair[1][:64, :64]
    assert psnr(sharp, sharp) == 100 and ssim(sharp, sharp) == 1
    one_off = sharp.copy()
    one_off[0, 0, 0] ^= 1
    assert psnr(one_off, sharp) < 100 == psnr(sharp / 255 + 1e-9, sharp / 255, 1)
    flat = np.full((32, 32, 3), 100, np.uint8)
    assert psnr(flat, flat + np.uint8(1)) == pytest.approx(48.1308, abs=1e-4)


def test_a_batch_is_scored_image_by_image(pair):
    scores = score_batch(np.stack(pair), np.stack([pair[1], pair[1]]))
    np.testing.assert_allclose(scores["psnr"], [psnr(*pair), 100])
    np.testing.assert_allclose(scores["ssim"], [ssim(*pair), 1])


def test_rounding_and_clamping():
    assert to_uint8(np.array([-2, -1, 0, 1, 3]), low=-1).tolist() == [0, 0, 128, 255, 255]
    inside = np.array([-0.1, 0.499 / 255, 0.501 / 255, 1.2])
    assert to_uint8(inside, low=0).tolist() == [0, 0, 1, 255]
    levels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(to_uint8((levels / 127.5 - 1).astype(np.float32), low=-1), levels)
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(np.array([np.nan]), low=0)


def test_bad_images_are_refused(pair):
    unit = [image / 255 for image in pair]
    for measure in (psnr, ssim):
        for arguments, fault in [
            ((unit[0], pair[1]), "use to_uint8"), ((unit[0], pair[1], 1), "use to_uint8"),
            (unit, "give floats a data_range"), ((unit[0] * np.nan, unit[1], 1), "diverged"),
            ((pair[0][:50], pair[1]), "in common"),
        ]:  # fmt: skip
            with pytest.raises(ValueError, match=fault):
                measure(*arguments)
    with pytest.raises(ValueError, match="use to_uint8"):
        score_batch(unit[0][None], unit[1][None])
    with pytest.raises(ValueError, match="11-pixel"):
        ssim(pair[0][:10], pair[1][:10])


# ------------------------------------------------------------------------- definitions in use (07b)

MEASURED = {  # on the astronaut pair, with the libraries named in the definitions
    ("psnr", "this suite"): 22.751,
    ("psnr", "pooled over images"): 22.751,
    ("ssim", "this suite"): 0.7226,
    ("ssim", "scikit-image default"): 0.7303,
    ("ssim", "grey first"): 0.7365,
    ("ssim", "Y channel"): 0.7648,
    ("ssim", "border counted"): 0.7287,
    ("ssim", "through colour"): 0.8259,
}


def test_every_definition_gives_the_number_of_its_library(pair):
    scores = definition_scores({"blurred": pair[0][None]}, pair[1][None])
    found = scores.set_index(["metric", "definition"]).value
    assert len(found) == len(DEFINITIONS)
    for key, expected in MEASURED.items():
        digits = len(str(expected).split(".")[1])
        assert found[key] == pytest.approx(expected, abs=0.6 * 10**-digits), key
    weights = np.array([65.481, 128.553, 24.966]) / 255
    luma = np.mean(((pair[0] @ weights) - (pair[1] @ weights)) ** 2)
    assert found["psnr", "Y channel"] == pytest.approx(10 * np.log10(255**2 / luma), abs=1e-9)


def test_pooling_is_not_averaging():
    flat = np.full((2, 12, 12, 3), 100, np.uint8)
    off = flat + np.array([1, 9], np.uint8)[:, None, None, None]
    scores = definition_scores({"off": off, "same": flat}, flat)
    found = scores.set_index(["variant", "metric", "definition"]).value
    each = [20 * np.log10(255 / step) for step in (1, 9)]
    assert found["off", "psnr", "this suite"] == pytest.approx(np.mean(each))
    assert found["off", "psnr", "pooled over images"] == pytest.approx(10 * np.log10(255**2 / 41))
    assert found["same", "psnr", "pooled over images"] == 100


def test_a_definition_that_ranks_otherwise_is_found():
    values = [("baseline", 20.0, 25.0), ("full", 20.5, 24.0), ("blurred", 10, 11)]
    rows = [
        (variant, item.name, item.metric, luma if item is DEFINITIONS[2] else ours)
        for variant, ours, luma in values
        for item in DEFINITIONS
    ]
    alike = agreement(pd.DataFrame(rows, columns=["variant", "definition", "metric", "value"]))
    assert len(alike) == len(DEFINITIONS) and alike["psnr", "Y channel"] == pytest.approx(1 / 3)
    assert list(alike[alike < 1].index) == [("psnr", "Y channel")]


def test_outputs_are_read_of_the_runs_that_kept_them(corpus, tmp_path, monkeypatch):
    test = corpus.test
    for name in ("full-s0", "baseline-s0", "frozen-s0"):
        (tmp_path / name).mkdir()
    np.save(tmp_path / "full-s0" / "restored_test.npy", np.asarray(test.sharp))
    np.save(tmp_path / "baseline-s0" / "restored_test.npy", np.asarray(test.blurred["light"]))
    monkeypatch.setattr(collect, "DEFINITION_IMAGES", 5)
    outputs, sharp = collect.read_outputs(corpus, sorted(tmp_path.iterdir()), "severe")
    assert list(outputs) == ["blurred", "baseline", "full"] and len(sharp) == 5
    assert np.array_equal(outputs["full"], sharp)
    assert np.array_equal(outputs["blurred"], test.blurred["severe"][:5])
