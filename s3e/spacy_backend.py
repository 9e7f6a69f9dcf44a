"""Tags and lemmas of a caption by spaCy, for those who have it with an English model (`text.parser = "spacy"`).

Only the tagging differs: the tree rules of `s3e.parsing`, the mended spelling and the multi-word prepositions of
`s3e.words` are the same for both. spaCy is no dependency of the suite; it is imported on first use.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

from s3e import lexicon as lx
from s3e.tagging import Token
from s3e.utils import S3EError
from s3e.words import noun_lemma, phrase_at, spell

REMEDY = 'pip install spacy; python -m spacy download en_core_web_sm; or set text.parser = "rules"'

# Penn Treebank tags, then universal parts of speech, to the classes and verb forms of `s3e.tagging`.
_BY_TAG = {
    "POS": "POSS",
    "PRP$": "POSS",
    "WP$": "REL",
    "WDT": "REL",
    "WP": "REL",
    "EX": "PRON",
    "TO": "MODAL",
}
_BY_POS = {pos: pos for pos in ("NOUN", "VERB", "ADJ", "ADV", "NUM", "DET", "PRON", "PUNCT")}
_BY_POS |= {
    "PROPN": "NOUN",
    "ADP": "PREP",
    "CCONJ": "CONJ",
    "SCONJ": "SUB",
    "PART": "ADV",
    "INTJ": "ADV",
}
_FORMS = {"VBZ": "s", "VBP": "base", "VB": "inf", "VBG": "ing", "VBN": "ed", "VBD": "past"}


def version() -> str:
    """Name and version of the model that reads captions. S3EError as `load`."""
    about = getattr(load(), "meta", {})
    return f"spaCy {about.get('lang')}_{about.get('name')} {about.get('version')}"


@cache
def load() -> Callable[[str], Iterable[Any]]:
    """The installed English pipeline, `en_core_web_sm` first. S3EError: spaCy or a model is missing or unreadable."""
    try:
        import spacy
    except ImportError as error:
        raise S3EError(
            f'text.parser = "spacy" needs spaCy, which is not installed ({REMEDY}).'
        ) from error
    models = sorted(
        spacy.util.get_installed_models(), key=lambda name: (name != "en_core_web_sm", name)
    )
    name = next((name for name in models if name.startswith("en_")), None)
    if name is None:
        raise S3EError(
            f'text.parser = "spacy" needs an English spaCy model, and none is installed ({REMEDY}).'
        )
    try:
        return spacy.load(name, exclude=["ner", "parser"])
    except (OSError, ValueError) as error:
        raise S3EError(f"spaCy cannot load its model {name}: {error} ({REMEDY}).") from error


def _class(pos: str, tag: str, lemma: str) -> str:
    """The class of a word from spaCy's part of speech, tag and lemma; "" if it is dropped (blanks, symbols)."""
    if pos == "AUX" or (pos == "VERB" and lemma == "be"):
        return {"be": "BE", "have": "HAVE"}.get(lemma, "MODAL")
    return _BY_TAG.get(tag) or _BY_POS.get(pos, "")


def _token(word: Any) -> Token | None:
    """One spaCy token as a `Token`, or None if it is dropped."""
    text, lemma = word.text.lower(), (word.lemma_ or word.text).lower()
    tag = _class(word.pos_, word.tag_, lemma)
    if not tag:
        return None
    if text in ("someone", "somebody"):
        return Token(text, "NOUN", "person")
    if tag == "NOUN":
        known = text in lx.PLURAL_ONLY or text in lx.IRREGULAR_NOUNS
        return Token(
            text,
            tag,
            noun_lemma(text) if known else lemma,
            "plural" if word.tag_ in ("NNS", "NNPS") else "",
        )
    if tag == "VERB":
        return Token(text, tag, lemma, _FORMS.get(word.tag_, "base"))
    return Token(text, tag, text)


def _join(tokens: list[Token]) -> Iterator[Token]:
    """The tokens with the words of a multi-word preposition made one."""
    words, i = [token.text for token in tokens], 0
    while i < len(tokens):
        length, label = phrase_at(words, i)
        if length:
            yield Token.of_phrase(" ".join(words[i : i + length]), label)
        else:
            yield tokens[i]
        i += max(length, 1)


def tag_words(text: str) -> list[Token]:
    """Tokenise, tag and lemmatise a caption by spaCy. S3EError: spaCy or an English model is missing."""
    tokens = [token for word in load()(" ".join(spell(text))) if (token := _token(word))]
    return list(_join(tokens))
