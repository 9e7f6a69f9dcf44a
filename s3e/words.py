"""Words on their own: tokens, multi-word prepositions, lemmas, classes without context (specification 6.2).

Reconstruction; the lists are in `s3e.lexicon`, `s3e.tagging` settles what hangs on the neighbours.
"""

import re
from functools import lru_cache

from s3e import lexicon as lx

_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W_]+(?:[-'’](?!s\b)[^\W_]+)*|['’]s\b|[.,;:!?&]")


def _doubles(lemma: str) -> bool:
    return bool(re.fullmatch(r"[^aeiou]*[aeiou][bdgklmnprtv]", lemma)) and lemma not in {"row", "tow", "mow", "sew"}


def _forms(lemma: str) -> dict[str, str]:
    """The regular forms of a verb: word -> base, s, ing or ed."""
    if lemma[-1] == "y" and lemma[-2] not in "aeiou":
        third, ed = lemma[:-1] + "ies", lemma[:-1] + "ied"
    else:
        third = lemma + ("es" if re.search(r"(s|x|z|ch|sh|o)$", lemma) else "s")
        ed = lemma + ("d" if lemma[-1] == "e" else "ed")
    stem = lemma[:-1] if lemma[-1] == "e" and lemma[-2:] not in ("ee", "oe", "ye") else lemma
    forms = {lemma: "base", third: "s", stem + "ing": "ing", ed: "ed"}
    if _doubles(lemma):
        forms |= {lemma + lemma[-1] + "ing": "ing", lemma + lemma[-1] + "ed": "ed"}
    return forms


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
    table |= {form: (lemma, "ing" if form.endswith("ing") else "ed") for form, lemma in lx.IRREGULAR_VERBS.items()}
    return table, nouns


VERB_FORMS, NOUN_TOO = _verb_table()


@lru_cache(maxsize=100_000)
def noun_lemma(word: str) -> str:
    """The singular of a noun: "boxes" -> "box", "men" -> "man", "pants" -> "pants"."""
    if word in lx.IRREGULAR_NOUNS:
        return lx.IRREGULAR_NOUNS[word]
    if word.endswith(("women", "firemen", "smen", "children")):
        return word[:-3] if word.endswith("children") else word[:-2] + "an"
    if len(word) < 4 or word in lx.PLURAL_ONLY or word in lx.SINGULAR_IN_S or not word.endswith("s"):
        return word
    if word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if re.search(r"(ss|x|z|ch|sh|o)es$", word) else word[:-1]


@lru_cache(maxsize=100_000)
def verb_lemma(word: str) -> tuple[str, str]:
    """(lemma, form) of a verb form, by table, else by suffix: "chases" -> ("chase", "s")."""
    if word in VERB_FORMS:
        return VERB_FORMS[word]
    for suffix, kind in (("ing", "ing"), ("ed", "ed")):
        if word.endswith(suffix):
            stem = word[: -len(suffix)]
            if len(stem) > 2 and stem[-1] == stem[-2] and stem[-1] not in "lsz":
                return stem[:-1], kind
            if stem.endswith(("at", "iz", "uc", "ag", "rg", "ng", "v", "c", "u")) and not stem.endswith("ing"):
                return stem + "e", kind
            return (stem[:-1] + "y", kind) if stem.endswith("i") else (stem, kind)
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
_CLOSED |= {"inside": "PREP", "outside": "PREP", "nearby": "PREP", "to": "PREP", "like": "PREP", "so": "ADV"}


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
    return "ADJ" if len(word) > 5 and word.endswith(("ful", "less", "ous", "ish", "able", "ible")) else "NOUN"


_PHRASES: dict[str, list[tuple[list[str], str]]] = {}
for _phrase in sorted(lx.PHRASES, key=lambda text: -len(text.split())):
    _PHRASES.setdefault(_phrase.split()[0], []).append((_phrase.split(), lx.PHRASES[_phrase]))


def split_words(text: str) -> list[tuple[str, str]]:
    """Lower-cased words with multi-word prepositions joined: [(word, its label if a phrase, else "")]."""
    raw = [word.replace("’", "'") for word in _WORD.findall(text.lower())]
    out, i = [], 0
    while i < len(raw):
        for parts, label in _PHRASES.get(raw[i], ()):
            if raw[i : i + len(parts)] == parts:
                out.append((" ".join(parts), label))
                i += len(parts)
                break
        else:
            out.append((raw[i], ""))
            i += 1
    return out
