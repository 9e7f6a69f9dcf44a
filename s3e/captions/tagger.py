"""A caption becomes tagged, lemmatised words: a lexicon, suffixes and the neighbours decide
(specification 6.2).

No tagger has to be downloaded. Reconstruction; the word lists are in `lexicon.toml`.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from s3e.utils import data_file

LEXICON = data_file("captions/lexicon.toml")
LONGEST = 2000  # characters of a caption that are read


def word_set(room: str, name: str) -> frozenset[str]:
    """The words of one list of the lexicon."""
    return frozenset(LEXICON[room][name].split())


def _word_map(room: str, name: str) -> dict[str, str]:
    return dict(pair.split(":") for pair in LEXICON[room][name].split())


_CLASSES = {word: tag for tag, words in LEXICON["classes"].items() for word in words.split()}
_VERBS = {entry.rstrip("*"): entry.endswith("*") for entry in LEXICON["verbs"]["regular"].split()}
_IRREGULAR_VERBS = _word_map("verbs", "irregular")
_IRREGULAR_NOUNS = _word_map("nouns", "irregular")
_PLURALS = word_set("nouns", "plural")
_NO_PLURALS = word_set("nouns", "singular_in_s")
_NO_VERBS = word_set("nouns", "in_ing_or_ed")
_NO_ADVERBS = word_set("nouns", "in_ly")
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

PRENOMINAL = ("DET", "ADJ", "NUM", "POSS")
_NOMINAL = ("NOUN", "ADJ", "NUM")
_OPENS = ("DET", "POSS", "PREP")  # what follows a verb rather than a noun in a compound


@dataclass
class Token:
    """A word or a multi-word preposition with its part of speech, lemma and form."""

    text: str
    tag: str  # DET ADJ NUM POSS PRON REL SUB CONJ BE HAVE MODAL ADV PREP PUNCT NOUN VERB
    lemma: str
    form: str = ""  # verbs: base, s, ing, ed; nouns: plural or ""

    @property
    def finite(self) -> bool:
        """Can this verb or auxiliary carry a main clause?"""
        if self.tag == "VERB":
            return self.form in ("s", "base")
        no_mood = ("be", "being", "been", "to", "about to")
        return self.tag in ("BE", "MODAL") and self.text not in no_mood


def noun_lemma(word: str) -> str:
    """The singular of a noun: "boxes" -> "box", "men" -> "man", "pants" -> "pants"."""
    if word in _IRREGULAR_NOUNS:
        return _IRREGULAR_NOUNS[word]
    invariant = len(word) < 4 or word in _PLURALS or word in _NO_PLURALS
    if invariant or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if re.search(r"(ss|x|[tz]z|ch|sh|o)es$", word) else word[:-1]


@lru_cache(maxsize=100_000)
def verb_lemma(word: str) -> tuple[str, str] | None:
    """(lemma, form) of a word that may be a verb, or None: "chases" -> ("chase", "s")."""
    if word in _IRREGULAR_VERBS:
        return _IRREGULAR_VERBS[word], "ing" if word.endswith("ing") else "ed"
    if word in _VERBS:
        return word, "base"
    for suffix, form in (("s", "s"), ("ing", "ing"), ("ed", "ed")):
        stem = word.removesuffix(suffix)
        if stem == word or len(stem) < 2:
            continue
        if form == "s":  # watch(es), fl(ies)
            lemmas = (stem, stem.removesuffix("e"), stem.removesuffix("ie") + "y")
        else:  # rid(ing), walk(ing), runn(ing), worri(ed)
            single = stem[:-1] if stem[-1] == stem[-2] else stem
            lemmas = (stem + "e", stem, single, stem.removesuffix("i") + "y")
        known = next((lemma for lemma in lemmas if lemma in _VERBS), None)
        if known:
            return known, form
        if form != "s" and len(word) > 4 and "-" not in word:  # in no list
            silent = re.search("[cgsuvz]$|[^aeiou]l$", stem)
            return stem + "e" if silent else re.sub("i$", "y", single), form
    return None


def _noun_too(word: str) -> bool:
    """May this form of a verb be a noun as well ("plays", "walk")?"""
    lemma, form = verb_lemma(word)
    return form in ("base", "s") and _VERBS[lemma]


@lru_cache(maxsize=100_000)
def _guess(word: str) -> str:
    """Class of a word on its own; VERB? where the neighbours decide."""
    if word in _CLASSES:
        return _CLASSES[word]
    if not word[0].isalnum():
        return "PUNCT"
    if word[0].isdigit():
        return "NUM"
    if word in _NO_VERBS:
        return "NOUN"
    if verb_lemma(word):
        return "VERB?"
    adverb = len(word) > 4 and word.endswith("ly") and noun_lemma(word) not in _NO_ADVERBS
    return "ADV" if adverb else "NOUN"


class _Tagger:
    """Reads the words of one caption from left to right and remembers the clause that it is in."""

    def __init__(self, words: list[tuple[str, str]]):
        self.words = words  # (text, label of a multi-word preposition or "")
        self.tokens: list[Token] = []
        self.finite = False  # the present clause has its finite verb
        self.main_open = False  # a relative clause began before the main clause had one
        self.plural = False  # the last noun is plural

    def run(self) -> list[Token]:
        for i, (word, label) in enumerate(self.words):
            if label:
                tag = {"and": "CONJ", "about_to": "MODAL", "adverb": "ADV"}.get(label, "PREP")
                self._add(Token(word, tag, label))
            else:
                self._add(self._resolve(i, word))
        return self.tokens

    @property
    def last(self) -> Token:
        return self.tokens[-1] if self.tokens else Token("", "", "")

    def _next(self, i: int) -> tuple[str, str]:
        """The next word after position i that is no adverb, and its class ("" at the end)."""
        for word, label in self.words[i + 1 :]:
            tag = "PREP" if label else _guess(word)
            if tag != "ADV":
                return word, tag
        return "", ""

    def _resolve(self, i: int, word: str) -> Token:
        """Tag word i, given its neighbours and the clause so far."""
        tag, last = _guess(word), self.last
        follower, nxt = self._next(i)
        if tag == "VERB?":
            return self._verb_or_not(word, nxt)
        if tag == "HAVE" and nxt not in ("BE", "VERB?"):
            return Token(word, "VERB", "have", "ing" if word == "having" else "s")
        if word == "to" and follower in _VERBS:
            return Token(word, "MODAL", word)
        if tag == "NOUN" or word in _COLOURS and last.text in ("in", "wearing"):
            return _noun(word)
        return Token(word, tag, word)

    def _verb_or_not(self, word: str, nxt: str) -> Token:
        lemma, form = verb_lemma(word)
        if self._is_verb(word, form, nxt):
            return Token(word, "VERB", lemma, form)
        if form == "ed" or form == "ing" and nxt in (*_NOMINAL, "VERB?"):
            return Token(word, "ADJ", word)
        return _noun(word)

    def _is_verb(self, word: str, form: str, nxt: str) -> bool:
        """Is a word that may be either a verb here (True), or a noun or adjective (False)?"""
        before, full = self.last.tag, self.finite and not self.main_open
        if before == "BE":
            return form in ("ing", "ed")
        if form == "ing" and before not in (*PRENOMINAL, "", "PREP"):
            return True
        if form in ("ing", "ed"):  # not so "a swimming dog", "a parked car"
            return nxt not in (*_NOMINAL, "VERB?") and before not in PRENOMINAL
        if before == "MODAL":
            return True
        if before == "PREP" or before in PRENOMINAL:
            return False
        noun_too = _noun_too(word)
        if form == "s":
            return not noun_too or not full and before not in ("", "VERB", "HAVE")
        if before == "CONJ":
            return not noun_too or self.plural and nxt in _OPENS
        return (
            not full
            and before in ("NOUN", "PUNCT", "PRON", "REL", "SUB")
            and (not noun_too or self.plural)
        )

    def _add(self, token: Token) -> None:
        """Keep track of the clause: has it a finite verb, is its subject plural?"""
        if token.tag in ("SUB", "REL") or token.tag == "PUNCT" and token.text != ",":
            self.main_open = token.tag == "REL" and not self.finite
            self.finite = False
        elif token.finite or token.tag == "HAVE":
            self.finite = True
        elif token.tag == "NOUN":
            self.plural = token.form == "plural"
        self.tokens.append(token)


def _noun(word: str) -> Token:
    lemma = noun_lemma(word)
    return Token(word, "NOUN", lemma, "plural" if lemma != word or word in _PLURALS else "")


def tag_words(text: str) -> list[Token]:
    """Tokenise, tag and lemmatise the first `LONGEST` characters of any string."""
    text = " ".join(re.sub(r"[^\w.,;:!?&'’`-]+", " ", text).split())
    if len(text) > LONGEST:
        text = text[:LONGEST].rpartition(" ")[0]
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'").replace("`", "'")
    words = [(m[0], m.lastgroup or "") for m in _TOKEN.finditer(text) if m[0] != "null"]
    return _Tagger(words).run()
