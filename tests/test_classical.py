"""Deconvolution with the true kernel: the kernels are those of the data, and both methods do what they are for."""

from dataclasses import replace

import numpy as np
import pytest
from skimage.restoration import richardson_lucy as skimage_richardson_lucy

from s3e.blur import blur_bytes, blur_image
from s3e.config import load_config
from s3e.data.prepare import prepare_corpus
from s3e.evaluation import images as classical
from s3e.evaluation.images import (
    choose_balance,
    restore,
    richardson_lucy,
    score_batch,
    score_classical,
    true_kernels,
    wiener,
)
from tests.conftest import TINY
from tests.fixtures_data import picture, write_coco

METHODS = {
    "wiener": lambda light, kernel: wiener(light, kernel, 0.003),
    "richardson_lucy": richardson_lucy,
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A prepared folder of captioned photos, blurred in linear light with another seed, and its configuration."""
    root = tmp_path_factory.mktemp("coco")
    config = load_config(
        "smoke",
        data=str(write_coco(root / "data")),
        overrides={**TINY, "blur.gamma": 2.2, "blur.seed": 5},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("s3e.utils.RUNS", root / "runs")
        patch.setattr("s3e.utils.RUNS", root / "runs", raising=False)
        return prepare_corpus(config, root / "corpus"), config


@pytest.fixture(params=["scenes", "photos"])
def data(request, corpus, tiny):
    """Both kinds of data, with their configurations."""
    return (corpus, tiny) if request.param == "scenes" else request.getfixturevalue("photos")


def test_drawn_again_the_kernels_blur_the_data_as_they_are_on_disk(data):
    corpus, config = data
    for split in (corpus.val, corpus.test):
        rows = np.arange(len(split))
        for severity in corpus.severities:
            kernels = true_kernels(split, severity, rows, config.blur)
            for i, kernel in enumerate(kernels):
                again = blur_bytes(split.sharp[i], kernel, config.blur.gamma)
                assert np.array_equal(again, split.blurred[severity][i]), (split.name, severity)


def test_the_scores_have_a_row_for_every_photo_and_method(data):
    corpus, config = data
    scores = score_classical(corpus.folder, config)
    assert tuple(scores.columns) == classical.CLASSICAL_COLUMNS
    assert len(scores) == 2 * 3 * (len(corpus.val) + len(corpus.test))
    assert not scores.duplicated(["split", "severity", "id", "variant"]).any()
    assert set(scores.variant) == {"wiener", "richardson_lucy"} and scores.psnr.between(5, 60).all()
    for split in (corpus.val, corpus.test):
        for severity in corpus.severities:
            blurred = score_batch(split.blurred[severity], split.sharp)
            part = scores[(scores.split == split.name) & (scores.severity == severity)]
            means = part.groupby("variant")[["psnr", "ssim"]].mean()
            assert (means.psnr > np.mean(blurred["psnr"])).all() and (
                means.ssim > np.mean(blurred["ssim"])
            ).all()


@pytest.mark.parametrize("name", METHODS)
def test_it_is_the_true_kernel_that_helps(data, name, monkeypatch):
    corpus, config = data
    rows = np.arange(len(corpus.test))
    right = score_batch(
        restore(corpus.test, "severe", rows, METHODS[name], config.blur), corpus.test.sharp
    )
    kernels = true_kernels(corpus.test, "severe", rows, config.blur)
    monkeypatch.setattr(classical, "true_kernels", lambda *_: kernels[1:] + kernels[:1])
    wrong = score_batch(
        restore(corpus.test, "severe", rows, METHODS[name], config.blur), corpus.test.sharp
    )
    assert right["psnr"].mean() > wrong["psnr"].mean() + 0.5


def test_light_is_deconvolved_where_light_was_blurred(photos):
    corpus, config = photos
    rows = np.arange(len(corpus.test))
    coded = config.blur.model_copy(update={"gamma": 1.0})
    linear, wrong = (
        score_batch(restore(corpus.test, "light", rows, richardson_lucy, blur), corpus.test.sharp)[
            "psnr"
        ].mean()
        for blur in (config.blur, coded)
    )
    assert linear > wrong + 0.5


@pytest.mark.parametrize("name", METHODS)
def test_a_photo_that_was_not_blurred_stays(name):
    light = picture("sharp", size=(40, 32)).astype(np.float32) / 255
    restored = METHODS[name](light, np.ones((1, 1)))
    assert restored.shape == light.shape
    np.testing.assert_allclose(restored, light, atol=0.05 if name == "wiener" else 1e-4)


def test_far_from_the_border_the_steps_are_those_of_scikit_image():
    kernel = np.outer([1, 2, 1], [1, 3, 2]) / 24
    light = blur_image(picture("steps", size=(48, 48)) / 255, kernel)
    ours = richardson_lucy(light, kernel, steps=4)
    theirs = skimage_richardson_lucy(light, kernel[..., None], num_iter=4, clip=False)
    np.testing.assert_allclose(ours[10:-10, 10:-10], theirs[10:-10, 10:-10], atol=1e-5)


def test_the_balance_is_the_best_on_the_photos_it_is_chosen_on(corpus, tiny, monkeypatch):
    rows = np.arange(5)
    monkeypatch.setattr(classical, "CHOSEN_ON", len(rows))
    tried = {}
    for balance in classical.BALANCES:
        restored = restore(
            corpus.val, "moderate", rows, lambda *pair, b=balance: wiener(*pair, b), tiny.blur
        )
        tried[balance] = score_batch(restored, corpus.val.sharp[rows])["psnr"].mean()
    assert choose_balance(corpus.val, "moderate", tiny.blur) == max(tried, key=tried.get)


def test_pairs_have_no_kernel_hence_no_rows(corpus, tiny):
    scores = score_classical(replace(corpus, severities=("released", "severe")), tiny)
    assert scores.empty and tuple(scores.columns) == classical.CLASSICAL_COLUMNS


def test_large_splits_are_scored_in_part(corpus, tiny, monkeypatch):
    monkeypatch.setattr(classical, "CLASSICAL_IMAGES", 3)
    scores = score_classical(corpus, tiny)
    assert scores.groupby(["split", "severity", "variant"]).id.agg(list).map(len).eq(3).all()
    assert set(scores.id) == {*corpus.val.ids[:3], *corpus.test.ids[:3]}
