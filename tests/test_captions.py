"""Captions are cleaned, never lost without a reason, and scored with their intervals; metrics alone: test_ngrams."""

import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3e.data.readers import clean_caption
from s3e.data.scenes import make_split
from s3e.evaluation import captions as caption
from s3e.utils import S3EError

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # half surrogates too
BREAKS = ["\r", "\n", "\r\n", "\v", "\f", "\x85", "\u2028", "\u2029", "\t", "\0", "\x1b", "\x7f"]
INVISIBLE = ["\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u202e", "\xa0", "\u3000", "\ud800"]


@pytest.mark.parametrize("separator", BREAKS + INVISIBLE, ids=ascii)
def test_whatever_does_not_print_becomes_one_blank(separator):
    assert clean_caption(f"{separator}a dog{separator}{separator}runs {separator}") == (
        "a dog runs",
        None,
    )


def test_accents_are_composed_and_soft_hyphens_vanish():
    assert clean_caption("a cafe\u0301 for sur\xadfers") == ("a caf\xe9 for surfers", None)
    assert clean_caption("e\xad\u0301 a") == ("\xe9 a", None)


def test_emoji_stay():
    assert clean_caption("a dog 🐕\n") == ("a dog 🐕", None)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty"),
        (" \u2028\u200b\n", "empty"),
        ("?! 123", "no Latin letter"),
        ("собака бежит", "no Latin letter"),
        ("🐕🐕", "no Latin letter"),
        ("dog " * 101, "enormous .101 words"),
        ("d" * 1001, "enormous .1 words, 1001 characters"),
    ],
)
def test_useless_captions_are_left_out(text, fault):
    assert re.search(fault, clean_caption(text)[1])


@pytest.mark.parametrize("text", ["dog", "Éé", "dog " * 100, "d" * 1000, "a собака"])
def test_limits_are_inclusive_and_one_latin_letter_is_enough(text):
    assert clean_caption(text) == (text.strip(), None)


@given(ANY_TEXT)
def test_any_text_gives_one_clean_line(text):
    cleaned, fault = clean_caption(text)
    assert (
        cleaned.isprintable()
        and cleaned == " ".join(cleaned.split(" ")).strip()
        and "  " not in cleaned
    )
    assert not any(
        unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in cleaned
    )
    assert clean_caption(cleaned) == (cleaned, fault)
    assert cleaned.encode().decode() == unicodedata.normalize("NFC", cleaned)


# ------------------------------------------------------------------------------------------------ scoring captions

REFERENCES = {
    "10": ["two foxes run through the snow", "foxes are running in snow"],
    "9": [
        "a man is riding a wave on a surfboard",
        "a surfer rides a big wave",
        "the man surfs alone",
    ],
    "photo": ["a red ball is left of a house", "a house right of a ball"],
}
GOOD = {
    "photo": "a ball is left of a house",
    "9": "a man riding a wave",
    "10": "two foxes running in the snow",
}


@pytest.fixture
def plain(monkeypatch):
    """No Java: tokens of our own, no METEOR."""
    monkeypatch.setenv("S3E_NO_JAVA", "1")


def test_the_order_and_the_kind_of_ids_do_not_matter(plain):
    expected = caption.score_captions(REFERENCES, {"good": GOOD})["good"]
    numbers = {
        "10": 10,
        "9": 9,
        "photo": "photo",
    }  # numbers and strings together cannot be sorted as they are
    references = {numbers[key]: texts for key, texts in reversed(REFERENCES.items())}
    captions = {numbers[key]: text for key, text in sorted(GOOD.items())}
    assert caption.score_captions(references, {"good": captions})["good"] == expected
    swapped = {**GOOD, "9": GOOD["10"], "10": GOOD["9"]}
    assert (
        caption.score_captions(REFERENCES, {"good": swapped})["good"]["CIDEr"]
        < expected["CIDEr"] - 1
    )


def test_line_breaks_inside_captions_change_nothing(plain):
    letters = dict(zip(GOOD, ["\r", "\x0b\x0c", "\u2028"], strict=True))
    odd = {key: text.replace(" ", letters[key]) for key, text in GOOD.items()}
    rows = caption.score_captions(REFERENCES, {"good": GOOD, "odd": odd})
    assert rows["good"] == rows["odd"] and rows["good"]["images"] == 3
    assert caption.clean("a\r\nb\u2028c\x85d\x0be ||| f\x1cg") == "a b c d e f g"


def test_empty_captions_are_scored_as_empty(plain):
    row = caption.score_captions(REFERENCES, {"none": dict.fromkeys(REFERENCES, " \u2028")})["none"]
    assert row["CIDEr"] == row["ROUGE-L"] == 0 and row["BLEU-1"] == pytest.approx(0, abs=1e-5)
    mixed = caption.score_captions(REFERENCES, {"mixed": {**GOOD, "9": ""}})["mixed"]
    assert 0 < mixed["CIDEr"] < caption.score_captions(REFERENCES, {"good": GOOD})["good"]["CIDEr"]


def test_one_image_needs_frozen_frequencies(plain):
    one = {"9": GOOD["9"]}
    row = caption.score_captions(REFERENCES, {"one": one})["one"]
    assert row["CIDEr"] is None and "tell no images apart" in row["reason"] and row["BLEU-1"] > 0.5
    row = caption.score_captions(REFERENCES, {"one": one}, background=REFERENCES)["one"]
    every = caption.per_image_cider(REFERENCES, GOOD)
    assert (
        row["CIDEr"] == pytest.approx(every["9"])
        and row["CIDEr"] > 0
        and "CIDEr" not in row["reason"]
    )
    assert caption.per_image_cider(REFERENCES, one) == {"9": every["9"]} and list(every) == [
        "10",
        "9",
        "photo",
    ]
    whole = caption.score_captions(REFERENCES, {"good": GOOD})["good"]["CIDEr"]
    assert np.mean(list(every.values())) == pytest.approx(whole, abs=1e-12)


def test_bad_captions_are_named():
    with pytest.raises(S3EError, match="'z', which has no references"):
        caption.score_captions(REFERENCES, {"good": {"z": "a dog"}})
    with pytest.raises(S3EError, match="non-empty list"):
        caption.score_captions({"a": "a dog"}, {})
    with pytest.raises(S3EError, match="has no captions"):
        caption.score_captions(REFERENCES, {"empty": {}})


@pytest.fixture
def sets(monkeypatch):
    """Sixty scenes: a human caption with every third image's words missing, the same with more missing, twice each."""
    monkeypatch.setenv("S3E_NO_JAVA", "1")
    texts = {scene.id: scene.captions for scene in make_split("val", 60, 32)}
    references = {key: group[1:] for key, group in texts.items()}

    def said(step, start):
        return {
            key: "" if i % step == start else group[0]
            for i, (key, group) in enumerate(texts.items())
        }

    return caption.statistics(
        references, {f"{n}{start}": said(n, start) for n in (2, 3) for start in (0, 1)}
    )


def test_intervals_hold_the_metric_and_pairing_narrows_them(sets):
    one = caption.intervals([sets["30"]])
    for name, value in sets["30"].scores().items():
        if name == "METEOR":
            assert value is None and one[name] is None
        else:
            assert (
                one[name].mean == pytest.approx(value) and one[name].low < value < one[name].high
            ), name
    assert caption.intervals([sets["30"]]) == one
    same = caption.intervals([sets["30"]], [sets["30"]])["CIDEr"]
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    paired = caption.intervals([sets["30"]], [sets["20"]])["CIDEr"]
    assert paired.mean == pytest.approx(sets["30"].scores()["CIDEr"] - sets["20"].scores()["CIDEr"])
    assert paired.high - paired.low < np.hypot(
        *(np.ptp(caption.intervals([sets[n]])["CIDEr"][1:]) for n in ("30", "20"))
    )


def test_the_interval_of_a_mean_is_that_of_its_standard_error(sets):
    values = sets["30"].ngrams.table[:, -1]
    found = caption.intervals([sets["30"]], resamples=20_000)["CIDEr"]
    width = 2 * 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    assert found.high - found.low == pytest.approx(width, rel=0.05)


def test_seeds_that_differ_widen_the_interval(sets):
    both = [sets["30"], sets["20"]]
    values = [item.scores()["CIDEr"] for item in both]
    found = caption.intervals(both)["CIDEr"]
    half = 12.706 * abs(values[0] - values[1]) / 2  # t of one degree of freedom
    assert found.mean == pytest.approx(np.mean(values))
    assert found.high - found.mean == pytest.approx(half, rel=1e-3)
    assert (
        caption.intervals(both, [sets["31"]])["CIDEr"]
        == caption.intervals(both, [sets["31"]] * 2)["CIDEr"]
    )


def test_sets_of_different_images_are_not_compared(plain, sets):
    other = caption.statistics(REFERENCES, {"good": GOOD})["good"]
    with pytest.raises(S3EError, match="same images"):
        caption.intervals([sets["30"]], [other])
    with pytest.raises(S3EError, match="same images and seeds"):
        caption.intervals([sets["30"]], [sets["20"], sets["21"]])
    one = caption.statistics(REFERENCES, {"one": {"9": GOOD["9"]}})["one"]
    assert np.isnan(caption.intervals([one])["BLEU-1"].low)
