"""Captions are cleaned, never lost without a reason."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3e.data.captions import clean_caption

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # half surrogates too
BREAKS = ["\r", "\n", "\r\n", "\v", "\f", "\x85", "\u2028", "\u2029", "\t", "\0", "\x1b", "\x7f"]
INVISIBLE = ["\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u202e", "\xa0", "\u3000", "\ud800"]


@pytest.mark.parametrize("separator", BREAKS + INVISIBLE, ids=ascii)
def test_whatever_does_not_print_becomes_one_blank(separator):
    assert clean_caption(f"{separator}a dog{separator}{separator}runs {separator}") == ("a dog runs", None)


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
    assert cleaned.isprintable() and cleaned == " ".join(cleaned.split(" ")).strip() and "  " not in cleaned
    assert not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in cleaned)
    assert clean_caption(cleaned) == (cleaned, fault)
    assert cleaned.encode().decode() == unicodedata.normalize("NFC", cleaned)
