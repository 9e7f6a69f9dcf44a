"""Captions to seven-node trees in a canonical order, by rules (specification 6.2).

`parse_caption` tags and lemmatises a caption (`tagger`), finds its entities (noun runs) and reduces
what stands between two entities, a gap, to one relation: the main-verb lemma, else the preposition,
else the conjunction. The root is the predicate of the main clause; entities before it fill the left
pair of leaves, those after it the right pair.

Canonical order: "A left of B" and "B right of A" describe the same image, so a relation that has an
inverse is always written one way (`INVERSES`), and a passive is turned into its active form; the
two sides swap places. Posture verbs give way to a directed preposition ("stands behind"), but not
to "on" or "in".

Reconstruction: the published work used an off-the-shelf grammar parser and did not publish its
rules.
"""

from dataclasses import dataclass
from typing import Any

from s3e.captions.tagger import COMPOUNDS, LEXICON, PRENOMINAL, Token, tag_words, word_set
from s3e.captions.tree import NULL, CaptionTree

# label -> (canonical label, do the two sides swap?)
INVERSES = {
    label: (kept, way == "swapped")
    for way, pairs in LEXICON["inverses"].items()
    for label, kept in pairs.items()
}
DIRECTED, CLOTHING, LIGHT = (word_set("relations", x) for x in ("directed", "clothing", "light"))
PARTICLES, POSTURES = (word_set("relations", x) for x in ("particles", "postures"))
WEAK = LIGHT | word_set("relations", "catenatives")
PARTITIVES = word_set("nouns", "partitives")
STOPS = (".", ";", "!", "?")


@dataclass
class Entity:
    """A noun run: token positions [start, stop) and the label of its head."""

    start: int
    stop: int
    label: str


@dataclass
class Gap:
    """What stands between two entities (or after the last one), reduced to one relation."""

    label: str = NULL
    kind: str = ""  # verb, prep, conj, be or "" (nothing)
    swap: bool = False  # passive: the sides are reversed
    finite: bool = False
    aside: bool = False  # inside a relative or subordinate clause


def _entities(tokens: list[Token]) -> list[Entity]:
    """Maximal noun runs with their determiners and adjectives; head = last noun, or a frequent
    compound.
    """
    found, i = [], 0
    while i < len(tokens):
        start = i
        while i < len(tokens) and tokens[i].tag in (*PRENOMINAL, "NOUN"):
            i += 1
        nouns = [k for k in range(start, i) if tokens[k].tag == "NOUN"]
        if not nouns:
            i = max(i, start + 1)
        elif tokens[nouns[-1]].lemma in PARTITIVES and [t.text for t in tokens[i : i + 1]] == [
            "of"
        ]:
            for token in tokens[start : i + 1]:  # "a group of": determiners of the next noun
                token.tag = "DET"
            i = start
        else:
            found.append(Entity(start, nouns[-1] + 1, _head(tokens[start : nouns[-1] + 1])))
    return found


def _head(run: list[Token]) -> str:
    """The last noun of a run, or the frequent compound of three or two words that it ends."""
    for size in (3, 2):
        compound = "_".join([*(t.text for t in run[-size:-1]), run[-1].lemma])
        if compound in COMPOUNDS:
            return compound
    return run[-1].lemma


def _main_part(words: list[Token]) -> tuple[list[Token], bool]:
    """The words before a relative or subordinate clause, or (words, True) where all is in one."""
    breaks = (i for i, t in enumerate(words) if t.tag in ("REL", "SUB") or t.text in STOPS)
    start = next(breaks, None)
    if start is None or any(t.tag in ("VERB", "BE") for t in words[:start]):
        return words[:start], False
    return words, True


def _telling(words: list[Token]) -> list[Token]:
    """The words of a gap without fillers and without the first word of "up against"."""
    kept: list[Token] = []
    for token in words:
        if token.tag == "PREP" and kept and kept[-1].tag == "PREP" and kept[-1].text in PARTICLES:
            kept.pop()
        mark = token.tag == "PUNCT" and token.text not in STOPS
        if token.tag not in ("DET", "ADV", "PRON") and not mark:
            kept.append(token)
    return kept


def _reduce(words: list[Token]) -> Gap:
    """Reduce a gap to one relation: main-verb lemma, else preposition, else conjunction."""
    gap, comma = Gap(), any(t.text in (",", ";") for t in words)
    words, gap.aside = _main_part(_telling(words))
    gap.finite = any(t.finite for t in words)
    preps = [t.lemma for t in words if t.tag == "PREP"]
    verbs = [i for i, t in enumerate(words) if t.tag == "VERB"]
    joins = [t.lemma for t in words if t.tag in ("CONJ", "SUB")]
    if verbs:
        _reduce_verb(gap, words, verbs)
    elif preps:
        gap.label, gap.kind = preps[0], "prep"
    elif any(t.tag == "BE" for t in words):
        gap.label, gap.kind = "be", "be"
    elif joins or comma:
        gap.label, gap.kind = (joins or ["and"])[0], "conj"
    return gap


def _reduce_verb(gap: Gap, words: list[Token], verbs: list[int]) -> None:
    """Light and posture verbs give way to the preposition, passives swap the sides."""
    strong = (i for i in verbs[:-1] if words[i].lemma not in WEAK | POSTURES)
    verb = next(strong, verbs[-1])  # "tries to catch" -> catch
    lemma, gap.kind = words[verb].lemma, "verb"
    after = next((t.lemma for t in words[verb + 1 :] if t.tag == "PREP"), "")
    gap.label, gap.swap = lemma, words[verb].form == "ed" and after == "by"
    if after and not gap.swap and (lemma in LIGHT or lemma in POSTURES and after in DIRECTED):
        gap.label, gap.kind = after, "prep"


def _gaps(tokens: list[Token], entities: list[Entity]) -> list[Gap]:
    """One gap after each entity; the last one runs to the end of the caption."""
    end = next(i for i in range(len(tokens), 0, -1) if tokens[i - 1].tag != "PUNCT")
    stops = [e.start for e in entities[1:]] + [end]
    words = [tokens[e.stop : stop] for e, stop in zip(entities, stops, strict=True)]
    gaps = [_reduce(part) for part in words]
    if gaps[-1].kind != "verb":
        gaps[-1] = Gap()
    aside = False  # what lies in a subordinate clause or in a later sentence
    for gap, part in zip(gaps, words, strict=True):
        gap.aside |= aside
        aside |= any(t.tag == "SUB" or t.text in STOPS for t in part)
    return gaps


def _root(gaps: list[Gap]) -> int | None:
    """Index of the gap that holds the main predicate, or None if there is no relation at all.

    It is the first finite verb outside relative clauses, else the first verb (one of clothing
    last), else the first preposition but "of", else the first relation.
    """

    def rank(place: int) -> int:
        gap = gaps[place]
        if gap.label not in CLOTHING and gap.finite and not gap.aside and gap.kind != "conj":
            return 0
        if gap.kind == "verb" and not gap.aside:
            return 1 + (gap.label in CLOTHING)
        return 3 if gap.kind == "prep" and gap.label != "of" else 4

    return min((i for i, gap in enumerate(gaps) if gap.kind), key=rank, default=None)


def _canonical(gap: Gap) -> tuple[str, bool]:
    label, swap = INVERSES.get(gap.label, (gap.label, False))
    return label, swap != gap.swap


def _pair(entities: list[Entity], gap: Gap | None) -> tuple[tuple[str, str], str]:
    """Two leaves and the relation between them, in canonical order."""
    first, second = ([e.label for e in entities] + [NULL, NULL])[:2]
    if second == NULL or gap is None:
        return (first, second), NULL
    relation, swap = _canonical(gap)
    return ((second, first) if swap else (first, second)), relation


def _build(entities: list[Entity], gaps: list[Gap]) -> CaptionTree:
    root = _root(gaps)
    cut = len(entities) if root is None else root + 1
    left, node5 = _pair(entities[:cut], gaps[0])
    right, node6 = _pair(entities[cut:], gaps[cut] if cut < len(gaps) else None)
    relation, swap = _canonical(gaps[root]) if root is not None else (NULL, False)
    if swap and right[0] != NULL:
        left, right, node5, node6 = right, left, node6, node5
    return CaptionTree(left + right, (node5, node6, relation))


def parse_caption(text: str) -> CaptionTree | None:
    """The canonical tree of a caption, or None if it names no entity; any string is accepted."""
    return explain(text)["tree"]


def explain(text: str) -> dict[str, Any]:
    """How a caption was read: lists `tokens`, `tags`, `chunks` (text, label), and the `tree`."""
    tokens = tag_words(text)
    entities = _entities(tokens)
    return {
        "tokens": [t.text for t in tokens],
        "tags": [t.tag for t in tokens],
        "chunks": [(" ".join(t.text for t in tokens[e.start : e.stop]), e.label) for e in entities],
        "tree": _build(entities, _gaps(tokens, entities)) if entities else None,
    }
