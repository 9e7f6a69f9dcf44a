"""Captions as people typed them: cleaned of what is no text, and refused if nothing usable is left."""

import re
import unicodedata

MAX_WORDS = 100
MAX_CHARACTERS = 1000
_LATIN = re.compile("[A-Za-zÀ-ÖØ-öø-ɏ]")


def clean_caption(text: str) -> tuple[str, str | None]:
    """The caption on one line, and what is wrong with it if it must be left out (else None).

    Characters that do not print (line and page breaks of every kind, tabs, zero-width and control characters, half
    surrogates) become blanks, soft hyphens vanish, accents are composed (NFC), blanks are joined. Emoji stay. Left out
    are captions that are empty, hold no Latin letter, or are longer than 100 words or 1000 characters.
    """
    if not text.isprintable():
        text = "".join(
            letter if letter.isprintable() else " " for letter in text.replace("\xad", "")
        )
    cleaned = " ".join(unicodedata.normalize("NFC", text).split())
    return cleaned, _fault(cleaned)


def _fault(text: str) -> str | None:
    if not text:
        return "the caption is empty"
    if len(text) > MAX_CHARACTERS or text.count(" ") >= MAX_WORDS:
        return f"the caption is enormous ({text.count(' ') + 1} words, {len(text)} characters)"
    if not _LATIN.search(text):
        return "the caption holds no Latin letter"
    return None
