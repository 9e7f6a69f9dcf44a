"""Words on their own: tokens, multi-word prepositions, lemmas, classes without context (specification 6.2).

Reconstruction; the lists are in `s3e.captions.lexicon`, `s3e.captions.tagger` settles what hangs on the neighbours.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from s3e.captions import lexicon as lx
from s3e.captions.tree import NULL

LONGEST = 2000  # characters of a caption that are read
_LETTER = "[a-z0-9\u00df-\u00f6\u00f8-\u024f]"  # Latin script; emoji and other scripts are no words
_WORD = re.compile(
    rf"\d+(?:[.,]\d+)*(?!{_LETTER})|{_LETTER}+(?:[-'](?!s\b){_LETTER}+)*|'s\b|[.,;:!?&]"
)


_SINGLE = {"row", "tow", "mow", "sew"}


def _doubles(lemma: str) -> bool:
    return (
        bool(re.fullmatch(r"(?:[^aeiou]|qu)*[aeiou][bdgklmnprtv]", lemma)) and lemma not in _SINGLE
    )


def _forms(lemma: str) -> dict[str, str]:
    """The regular forms of a verb: word -> base, s, ing or ed."""
    if lemma[-1] == "y" and lemma[-2] not in "aeiou":
        third, ed = lemma[:-1] + "ies", lemma[:-1] + "ied"
    else:
        third = lemma + ("es" if re.search(r"(s|x|z|ch|sh|o)$", lemma) else "s")
        ed = lemma + ("d" if lemma[-1] == "e" else "ed")
    if _doubles(lemma):
        return {
            lemma: "base",
            third: "s",
            lemma + lemma[-1] + "ing": "ing",
            lemma + lemma[-1] + "ed": "ed",
        }
    stem = lemma[:-1] if lemma[-1] == "e" and lemma[-2:] not in ("ee", "oe", "ye") else lemma
    return {lemma: "base", third: "s", stem + "ing": "ing", ed: "ed"}


def _verb_table() -> tuple[dict[str, tuple[str, str]], set[str]]:
    """(form -> (lemma, kind of form), forms that may be nouns as well)."""
    table: dict[str, tuple[str, str]] = {}
    nouns: set[str] = set()
    for entry in lx.VERBS:
        lemma = entry.rstrip("*")
        for form, kind in _forms(lemma).items():
            table.setdefault(form, (lemma, kind))
            if entry.endswith("*") and kind in ("base", "s"):
                nouns.add(form)
    table |= {
        form: (lemma, "ing" if form.endswith("ing") else "ed")
        for form, lemma in lx.IRREGULAR_VERBS.items()
    }
    return table, nouns


VERB_FORMS, NOUN_TOO = _verb_table()


@lru_cache(maxsize=100_000)
def noun_lemma(word: str) -> str:
    """The singular of a noun: "boxes" -> "box", "men" -> "man", "pants" -> "pants"."""
    if word in lx.IRREGULAR_NOUNS:
        return lx.IRREGULAR_NOUNS[word]
    if word.endswith(("women", "firemen", "smen", "children")):
        return word[:-3] if word.endswith("children") else word[:-2] + "an"
    if (
        len(word) < 4
        or word in lx.PLURAL_ONLY
        or word in lx.SINGULAR_IN_S
        or not word.endswith("s")
    ):
        return word
    if word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if re.search(r"(ss|x|[tz]z|ch|sh|o)es$", word) else word[:-1]


# Stems that lost an "e" before -ing or -ed: "battl(ing)", "measur(ing)", "compos(ing)", but "repair(ing)".
_SILENT_E = re.compile(
    r"([bcdfgkptz]l|[cuv]|(?<!t)z|(?<!s)s|[dr]g|.[aeiou].*(ag|ang|eng|[ct]ap)|rib|(?<![aeo])i[dr]|(?<![aou])in|(?<!o)u[drt]|"
    r"(?<!o)o[dk]|(?<![aeiou])at)$|^[^aeiou]+[aeiou][^aeiouwxy]$"
)


def _stem(stem: str) -> str:
    """The base form of an unknown verb without -ing or -ed: "strapp" -> "strap", "battl" -> "battle"."""
    if len(stem) < 3:
        return stem
    if (
        stem[-1] == stem[-2]
        and stem[-1] not in "aeiouszl"
        or re.search("[aeiou][^aeiou]+[aeiou]+ll$", stem)
    ):
        return stem[:-1]
    return stem + "e" if _SILENT_E.search(stem) else stem


@lru_cache(maxsize=100_000)
def verb_lemma(word: str) -> tuple[str, str]:
    """(lemma, form) of a verb form, by table, else by suffix: "chases" -> ("chase", "s")."""
    if word in VERB_FORMS:
        return VERB_FORMS[word]
    for suffix in ("ing", "ed"):
        if word.endswith(suffix):
            return (
                word[:-3] + "y" if word.endswith("ied") else _stem(word[: -len(suffix)])
            ), suffix
    return word, "base"


def is_plural(word: str) -> bool:
    """Is a noun plural, by its form?"""
    return word in lx.PLURAL_ONLY or (noun_lemma(word) != word)


_CLOSED: dict[str, str] = {}  # later classes win where a word is in several lists
for _tag, _words in (
    ("PREP", lx.PREPOSITIONS),
    ("ADV", lx.ADVERBS),
    ("ADJ", lx.ADJECTIVES),
    ("NUM", lx.NUMBERS),
    ("PRON", lx.PRONOUNS),
    ("SUB", lx.SUBORDINATORS),
    ("CONJ", lx.CONJUNCTIONS),
    ("REL", lx.RELATIVES),
    ("DET", lx.DETERMINERS),
    ("POSS", lx.POSSESSIVES),
    ("MODAL", lx.MODALS),
    ("HAVE", lx.HAVE),
    ("BE", lx.BE),
):
    _CLOSED |= dict.fromkeys(_words, _tag)
_CLOSED |= {
    "inside": "PREP",
    "outside": "PREP",
    "nearby": "PREP",
    "to": "PREP",
    "like": "PREP",
    "so": "ADV",
}


@lru_cache(maxsize=100_000)
def guess(word: str) -> str:
    """Class of a word on its own: a closed class, ADJ, ADV, NUM, PUNCT, NOUN, or VERB? where the neighbours decide."""
    if word in _CLOSED:
        return _CLOSED[word]
    if not word[0].isalnum():
        return "PUNCT"
    if word[0].isdigit():
        return "NUM"
    if word in lx.NOUNS_IN_ING or word in lx.NOUNS_IN_ED:
        return "NOUN"
    if word in VERB_FORMS or (len(word) > 4 and word.endswith(("ing", "ed")) and "-" not in word):
        return "VERB?"
    if "-" in word and word.endswith(("ed", "ing")):
        return "ADJ"
    if len(word) > 4 and word.endswith("ly") and noun_lemma(word) not in lx.NOUNS_IN_LY:
        return "ADV"
    return (
        "ADJ"
        if len(word) > 5 and word.endswith(("ful", "less", "ous", "ish", "able", "ible"))
        else "NOUN"
    )


_TARGETS = lx.LONG_WORDS | {
    word for word in VERB_FORMS if len(word) > 7 and word.endswith(("ing", "ed"))
}
_KNOWN = (
    lx.LONG_WORDS
    | lx.CLOSED_UP
    | lx.NOUNS_IN_ING
    | {word for word in (*VERB_FORMS, *_CLOSED) if len(word) > 6}
)
_VOWELS = "aeiou"


def _slips(word: str) -> set[str]:
    """Words one slip away: letters swapped, one too many, one missing, a vowel for a vowel; both ends stay."""
    inner = range(1, len(word) - 1)
    slips = {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in inner if i + 2 < len(word)}
    slips |= {word[:i] + word[i + 1 :] for i in inner}
    slips |= {
        word[:i] + letter + word[i:]
        for i in range(1, len(word))
        for letter in "abcdefghijklmnopqrstuvwxyz"
    }
    return slips | {
        word[:i] + v + word[i + 1 :] for i in inner if word[i] in _VOWELS for v in _VOWELS
    }


@lru_cache(maxsize=100_000)
def respell(word: str) -> str:
    """A word with its spelling mended: from a table, or if long and unknown, by the one known word a slip away."""
    if word in lx.TYPOS:
        return lx.TYPOS[word]
    singular = noun_lemma(word)
    unknown = guess(word) in ("NOUN", "VERB?") and word not in _KNOWN and singular not in _KNOWN
    if not (8 <= len(word) <= 20 and word.isalpha() and unknown):
        return word
    meant = _slips(word) & _TARGETS
    if singular != word:
        meant |= {slip + "s" for slip in _slips(singular) & lx.LONG_WORDS}
    return meant.pop() if len(meant) == 1 else word


_PHRASES: dict[str, list[tuple[list[str], str]]] = {}
for _phrase in sorted(lx.PHRASES, key=lambda text: -len(text.split())):
    _PHRASES.setdefault(_phrase.split()[0], []).append((_phrase.split(), lx.PHRASES[_phrase]))


def clean(text: str) -> str:
    """The words of the first `LONGEST` characters in lower case, blanks joined, odd letters and quotes made plain."""
    text = " ".join(text.split())
    if len(text) > LONGEST:
        text = text[:LONGEST].rpartition(" ")[0]
    return unicodedata.normalize("NFKC", text).lower().replace("’", "'").replace("`", "'")


def _closed_up(first: str, second: str) -> str:
    """ "wet", "suits" -> "wetsuits", a word usually written as one; "" for any other two."""
    if first not in lx.CLOSED_UP_HEADS:
        return ""
    word = first + second
    return word if word in VERB_FORMS or noun_lemma(word) in lx.CLOSED_UP else ""


def _parts(word: str) -> list[str]:
    """A hyphenated word as one, if it is usually written so, or as two, if it is a frequent compound."""
    first, _, second = word.partition("-")
    if second and _closed_up(first, second):
        return [first + second]
    return [first, second] if (first, noun_lemma(second)) in lx.COMPOUNDS else [respell(word)]


def spell(text: str) -> list[str]:
    """The words and marks of a caption in lower case, misspellings mended, "wet suit" and "wet-suit" closed up."""
    words: list[str] = []
    for word in _WORD.findall(clean(text)):
        if word == NULL:  # the name of an empty slot
            continue
        for part in _parts(word) if "-" in word else (respell(word),):
            if words and (joined := _closed_up(words[-1], part)):
                words[-1] = joined
            else:
                words.append(part)
    return words


def phrase_at(words: Sequence[str], i: int) -> tuple[int, str]:
    """(length, label) of the multi-word preposition that starts at word i; (0, "") if there is none."""
    for parts, label in _PHRASES.get(words[i], ()):
        if words[i : i + len(parts)] == parts:
            return len(parts), label
    return 0, ""


def split_words(text: str) -> list[tuple[str, str]]:
    """Lower-cased words with multi-word prepositions joined: [(word, its label if a phrase, else "")]."""
    words, out, i = spell(text), [], 0
    while i < len(words):
        length, label = phrase_at(words, i)
        out.append((" ".join(words[i : i + max(length, 1)]), label))
        i += max(length, 1)
    return out
