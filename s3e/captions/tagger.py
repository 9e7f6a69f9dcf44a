"""A caption becomes tagged, lemmatised words: HanTa's, mended by a few rules and a lexicon
(specification 6.2).

HanTa (Wartena 2019) is a hidden Markov model of morphemes, trained on the British National Corpus;
its model comes with its package. Reconstruction; the word lists are in `lexicon.toml`.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from s3e.utils import data_file

LEXICON = data_file("captions/lexicon.toml")
LONGEST = 2000  # characters of a caption that are read


def word_set(room: str, name: str) -> frozenset[str]:
    """The words of one list of the lexicon."""
    return frozenset(LEXICON[room][name].split())


_CLASSES = {word: tag for tag, words in LEXICON["classes"].items() for word in words.split()}
_TAGS = {code: tag for tag, codes in LEXICON["tags"].items() for code in codes.split()}
_FORMS = {"Z": "s", "G": "ing", "D": "ed", "N": "ed"}  # third letters of HanTa's tags of verbs
_LEMMAS = dict(pair.split(":") for pair in LEXICON["lemmas"]["of"].split())
_PLURALS = word_set("nouns", "plural")
_NO_VERBS = word_set("nouns", "in_ing")
_COLOURS = word_set("nouns", "colours")
COMPOUNDS = word_set("nouns", "compounds") | {
    f"{sport}_{thing}"
    for sport in word_set("nouns", "sports")
    for thing in word_set("nouns", "sport_things")
}
_PHRASES = "|".join(
    f"(?P<{label}>{'|'.join(sorted(' '.join(phrases.split()).split(', '), key=len, reverse=True))})"
    for label, phrases in LEXICON["phrases"].items()
)
_LETTER = "[a-z0-9\u00df-\u00f6\u00f8-\u024f]"  # Latin script; emoji and other scripts are no words
_TOKEN = re.compile(
    rf"(?:{_PHRASES})(?![\w'-])|\d+(?:[.,]\d+)*(?!{_LETTER})"
    rf"|{_LETTER}+(?:[-'](?!s\b){_LETTER}+)*|'s\b|[.,;:!?&]"
)

# Words like those multi-word prepositions that are none, for HanTa
_STAND_INS = {"and": "and", "about_to": "to", "adverb": "there"}

PRENOMINAL = ("DET", "ADJ", "NUM", "POSS")


@dataclass
class Token:
    """A word or a multi-word preposition with its part of speech, lemma and form."""

    text: str
    tag: str  # DET ADJ NUM POSS PRON REL SUB CONJ BE HAVE MODAL ADV PREP PUNCT NOUN VERB
    lemma: str
    form: str = ""  # of verbs: base, s, ing, ed

    @property
    def finite(self) -> bool:
        """Can this verb or auxiliary carry a main clause?"""
        if self.tag == "VERB":
            return self.form in ("s", "base")
        no_mood = ("be", "being", "been", "to", "about to")
        return self.tag in ("BE", "MODAL") and self.text not in no_mood


@cache
def _hanta() -> Any:
    from HanTa import HanoverTagger

    model = Path(HanoverTagger.__file__).with_name("morphmodel_en.pgz")
    return HanoverTagger.HanoverTagger(str(model))


def _token(word: str, label: str, lemma: str, code: str) -> Token:
    """A word with HanTa's lemma and code, or a multi-word preposition with its `label`."""
    if label:
        tag = {"and": "CONJ", "about_to": "MODAL", "adverb": "ADV"}.get(label, "PREP")
        return Token(word, tag, label)
    if not (word[0].isalnum() or word == "'s"):
        return Token(word, _CLASSES.get(word, "PUNCT"), word)
    tag = "MODAL" if code == "TO0" else _CLASSES.get(word) or _TAGS.get(code, "NOUN")
    if tag == "VERB":
        return Token(word, tag, _LEMMAS.get(word, lemma), _FORMS.get(code[2], "base"))
    if tag == "NOUN":
        same = word in _PLURALS or word.endswith("er")  # HanTa: sunglass, surf
        return Token(word, tag, _LEMMAS.get(word, word if same else lemma.lower()))
    return Token(word, tag, word)


def _mended(tokens: list[Token], i: int, code: str) -> Token:
    """Word i as its neighbours show it, where HanTa (whose code it has) is often wrong."""
    token, word = tokens[i], tokens[i].text
    before, after = ([Token("", "", ""), *tokens, Token("", "", "")][k] for k in (i, i + 2))
    if token.tag == "HAVE" and after.tag not in ("BE", "VERB"):
        return Token(word, "VERB", "have", "ing" if word == "having" else "s")
    if word in _COLOURS and before.text in ("in", "wearing") and after.tag not in ("NOUN", "ADJ"):
        return Token(word, "NOUN", word)  # worn: an entity
    verb = ""
    if token.tag in ("NOUN", "ADJ") and code in ("NN1", "AJ0") and word.endswith("ing"):
        follows = before.tag == "NOUN" and after.tag not in ("NOUN", "ADJ", "BE")
        if word not in _NO_VERBS and (follows or before.tag == "BE"):
            verb = "VVG"  # "a man surfing on a wave"
    elif (token.tag, code, before.tag) == ("NOUN", "NN2", "NOUN"):
        run = takewhile(lambda other: other.tag in ("NOUN", *PRENOMINAL), tokens[i - 1 :: -1])
        if any(other.text in ("a", "an") for other in run):
            verb = "VVZ"  # "a man waves": "a" begins no plural
    return _token(word, "", *_hanta().analyze(word, pos=verb)) if verb else token


def tag_words(text: str) -> list[Token]:
    """Tokenise, tag and lemmatise the first `LONGEST` characters of any string."""
    text = " ".join(re.sub(r"[^\w.,;:!?&'’`-]+", " ", text).split())
    if len(text) > LONGEST:
        text = text[:LONGEST].rpartition(" ")[0]
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'").replace("`", "'")
    words = [(m[0], m.lastgroup or "") for m in _TOKEN.finditer(text) if m[0] != "null"]
    known = [_STAND_INS.get(label, "in") if label else word for word, label in words]
    tagged = _hanta().tag_sent(known)
    tokens = [_token(*word, *tags[1:]) for word, tags in zip(words, tagged, strict=True)]
    for i, (_, _, code) in enumerate(tagged):
        tokens[i] = _mended(tokens, i, code)
    return tokens
