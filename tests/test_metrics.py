import os
import stat
import time

import numpy as np
import pytest
from scipy.ndimage import convolve1d
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from s3e.evaluation import caption
from s3e.evaluation.image import PSNR_CAP, psnr, score_batch, ssim, to_uint8
from s3e.paths import S3EError

REFERENCES = {
    "b": ["A man is riding a wave on a surfboard.", "A surfer rides a big wave.", "The man surfs, alone."],
    "a": ["Two dogs run through the snow .", "Dogs are running in snow", 'A "dog" (brown) runs!'],
    "c": ["a red ball is left of a house", "there is a ball left of a house", "a house right of a ball"],
}
GOOD = {"a": "two dogs running in the snow", "b": "a man riding a wave", "c": "a ball is left of a house"}
BAD = {"a": "a red ball", "b": "", "c": "dogs"}


# ------------------------------------------------------------------------------------------------------------ images


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


@pytest.fixture(scope="module")
def pair():
    sharp = data.astronaut()[100:228, 150:278]
    blurred = np.rint(convolve1d(sharp.astype(float), np.ones(15) / 15, axis=1, mode="reflect")).astype(np.uint8)
    return blurred, sharp


def test_psnr_and_ssim_by_definition(pair):
    error = np.mean((pair[0].astype(float) - pair[1]) ** 2)
    assert psnr(*pair) == pytest.approx(10 * np.log10(255**2 / error), abs=1e-9)
    assert psnr(*pair) == pytest.approx(peak_signal_noise_ratio(pair[1], pair[0], data_range=255), abs=1e-9)
    assert ssim(*pair) == pytest.approx(gaussian_ssim(*pair), abs=1e-6)
    assert ssim(*pair) == pytest.approx(ssim(pair[1], pair[0]), abs=1e-9)


def test_identical_images_and_one_grey_level(pair):
    sharp = pair[1]
    assert psnr(sharp, sharp) == PSNR_CAP == 100 and ssim(sharp, sharp) == 1
    one_off = sharp.copy()
    one_off[0, 0, 0] ^= 1
    assert psnr(one_off, sharp) < 100
    flat = np.full((32, 32, 3), 100, np.uint8)
    assert psnr(flat, flat + np.uint8(1)) == pytest.approx(48.1308, abs=1e-4)


def test_a_batch_is_scored_image_by_image(pair):
    restored, sharp = np.stack([pair[0], pair[1]]), np.stack([pair[1], pair[1]])
    scores = score_batch(restored, sharp)
    np.testing.assert_allclose(scores["psnr"], [psnr(*pair), 100])
    np.testing.assert_allclose(scores["ssim"], [ssim(*pair), 1])


def test_rounding_and_clamping():
    assert to_uint8(np.array([-2, -1, 0, 1, 3]), low=-1).tolist() == [0, 0, 128, 255, 255]
    assert to_uint8(np.array([-0.1, 0.499 / 255, 0.501 / 255, 1.2]), low=0).tolist() == [0, 0, 1, 255]
    levels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(to_uint8((levels / 127.5 - 1).astype(np.float32), low=-1), levels)
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(np.array([np.nan]), low=0)


def test_bad_images_are_refused(pair):
    with pytest.raises(ValueError, match="use to_uint8"):
        psnr(pair[0] / 255, pair[1])
    with pytest.raises(ValueError, match="in common"):
        ssim(pair[0][:50], pair[1])
    with pytest.raises(ValueError, match="11-pixel"):
        ssim(pair[0][:8], pair[1][:8])


# ---------------------------------------------------------------------------------------------------------- captions


@pytest.fixture(scope="module")
def with_java():
    if caption.find_java() is None:
        pytest.skip("no Java on this machine")
    with pytest.MonkeyPatch.context() as patch:  # a decimal comma in the JVM must not matter
        patch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=it -Duser.country=IT")
        return caption.score_captions(REFERENCES, {"good": GOOD, "bad": BAD, "part": {"b": GOOD["b"]}})


def package_scores(references, captions):
    """The package's scorers on its own kind of input, without this suite's code; captions already tokenised."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    res = {key: [text] for key, text in captions.items()}
    bleu = Bleu(4).compute_score(references, res, verbose=0)[0]
    return [*bleu, Rouge().compute_score(references, res)[0], Cider().compute_score(references, res)[0]]


def test_java_scores_equal_the_package(with_java):
    tokens = {
        "b": ["a man is riding a wave on a surfboard", "a surfer rides a big wave", "the man surfs alone"],
        "a": ["two dogs run through the snow", "dogs are running in snow", "a dog -lrb- brown -rrb- runs"],
        "c": REFERENCES["c"],
    }
    names = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr")
    for system, captions in {"good": GOOD, "bad": BAD}.items():
        ours = [with_java[system][name] for name in names]
        assert ours == pytest.approx(package_scores(tokens, captions), abs=1e-12)
        assert with_java[system]["images"] == 3 and with_java[system]["reason"] == ""
    # pycocoevalcap 1.2's own Meteor class on the same captions
    assert with_java["good"]["METEOR"] == pytest.approx(0.3951525184612911, abs=1e-9)
    assert with_java["bad"]["METEOR"] == pytest.approx(0.010062893081761008, abs=1e-9)
    assert with_java["part"]["images"] == 1 and with_java["part"]["BLEU-1"] > 0.9


def test_without_java(monkeypatch, capsys):
    monkeypatch.setenv("S3E_NO_JAVA", "1")
    assert caption.find_java() is None
    shuffled = dict(reversed(GOOD.items()))
    rows = caption.score_captions(REFERENCES, {"good": GOOD, "shuffled": shuffled, "bad": BAD})
    good = rows["good"]
    assert good["METEOR"] is None and "no Java" in good["reason"] and "tokenize" in good["reason"]
    assert good == rows["shuffled"]
    assert all(good[name] > rows["bad"][name] for name in caption.METRICS if name != "METEOR")
    tokens = {key: [caption._plain([caption.clean(text)])[0] for text in group] for key, group in REFERENCES.items()}
    assert [good[n] for n in caption.METRICS if n != "METEOR"] == pytest.approx(package_scores(tokens, GOOD), abs=1e-12)
    assert capsys.readouterr().out == ""


def test_newline_like_characters_do_not_shift_captions(monkeypatch):
    assert caption.clean("a\r\nb\u2028c\x85d\x0be ||| f\x1cg") == "a b c d e f g"
    if java := caption.find_java():
        strange = ["a dog\u2028runs\r", "", "  ", "😀", "it's (a) \x85 cat.", "|||"]
        tokens = caption._ptb(java, [caption.clean(text) for text in strange])
        assert len(tokens) == 6 and tokens[0] == "a dog runs" and tokens[1] == tokens[2] == tokens[5] == ""
        assert tokens[4] == "it 's -lrb- a -rrb- cat"


def test_per_image_cider_keeps_the_document_frequencies(monkeypatch):
    monkeypatch.setenv("S3E_NO_JAVA", "1")
    every = caption.per_image_cider(REFERENCES, GOOD)
    assert list(every) == ["a", "b", "c"]
    assert caption.per_image_cider(REFERENCES, {"b": GOOD["b"]}) == {"b": every["b"]}
    whole = caption.score_captions(REFERENCES, {"good": GOOD})["good"]["CIDEr"]
    assert np.mean(list(every.values())) == pytest.approx(whole, abs=1e-12)


def test_bad_captions_are_named():
    with pytest.raises(S3EError, match="'z', which has no references"):
        caption.score_captions(REFERENCES, {"good": {"z": "a dog"}})
    with pytest.raises(S3EError, match="non-empty list"):
        caption.score_captions({"a": "a dog"}, {})
    with pytest.raises(S3EError, match="has no captions"):
        caption.score_captions(REFERENCES, {"empty": {}})


@pytest.mark.skipif(os.name != "posix", reason="uses a shell script as Java")
@pytest.mark.parametrize(
    "body, message", [("exec sleep 60", "killed or out of time"), ("echo no heap >&2; exit 1", "no heap")]
)
def test_a_hanging_or_failing_java_ends_with_a_sentence(tmp_path, monkeypatch, body, message):
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\n{body}\n")
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(caption, "TIMEOUT", 0.5)
    start = time.monotonic()
    with pytest.raises(S3EError, match=f"METEOR failed .*{message}.*S3E_NO_JAVA=1"):
        caption._meteor(str(java), {"good": ({"a": ["a dog"]}, {"a": ["a cat"]})})
    with pytest.raises(S3EError, match="S3E_NO_JAVA=1"):
        caption._ptb(str(java), ["a dog"])
    assert time.monotonic() - start < 10
