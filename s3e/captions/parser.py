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

from s3e.captions.tagger import COMPOUNDS, LEXICON, PRENOMINAL, Token, tag_words, word_set
from s3e.captions.tree import NULL, CaptionTree

SWAPPED = LEXICON["inverses"]["swapped"]  # label -> its inverse: the two sides change places
INVERSES = SWAPPED | LEXICON["inverses"]["same"]  # label -> the canonical one
DIRECTED, CLOTHING, LIGHT = (word_set("relations", x) for x in ("directed", "clothing", "light"))
PARTICLES, POSTURES = (word_set("relations", x) for x in ("particles", "postures"))
WEAK = LIGHT | POSTURES | word_set("relations", "catenatives")
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
    swap: bool = False  # the two sides change places
    finite: bool = False
    aside: bool = False  # inside a relative or subordinate clause


def _entities(tokens: list[Token]) -> list[Entity]:
    """Maximal noun runs with their determiners and adjectives, up to their last noun."""
    found, i = [], 0
    while i < len(tokens):
        start = i
        while i < len(tokens) and tokens[i].tag in (*PRENOMINAL, "NOUN"):
            i += 1
        nouns = [k for k in range(start, i) if tokens[k].tag == "NOUN"]
        of = i < len(tokens) and tokens[i].text == "of"
        if not nouns:
            i = max(i, start + 1)
        elif of and tokens[nouns[-1]].lemma in PARTITIVES:
            for token in tokens[start : i + 1]:  # "a group of": determiners of the next noun
                token.tag = "DET"
            i = start
        else:
            run = tokens[start : nouns[-1] + 1]
            found.append(Entity(start, start + len(run), _head(run)))
    return found


def _head(run: list[Token]) -> str:
    """The last noun of a run, or the frequent compound of three or two words that it ends."""
    for size in (3, 2):
        compound = "_".join([*(t.text for t in run[-size:-1]), run[-1].lemma])
        if compound in COMPOUNDS:
            return compound
    return run[-1].lemma


def _telling(words: list[Token]) -> list[Token]:
    """The words of a gap without fillers and without the first word of "up against"."""
    kept: list[Token] = []
    for token in words:
        if token.tag in ("DET", "ADV", "PRON", "PUNCT") and token.text not in STOPS:
            continue
        if kept and token.tag == kept[-1].tag == "PREP" and kept[-1].text in PARTICLES:
            kept.pop()
        kept.append(token)
    return kept


def _main_part(words: list[Token]) -> tuple[list[Token], bool]:
    """The words before a relative or subordinate clause, or (words, True) where all is in one."""
    breaks = (i for i, t in enumerate(words) if t.tag in ("REL", "SUB") or t.text in STOPS)
    start = next(breaks, None)
    main = words[:start]
    aside = start is not None and not any(t.tag in ("VERB", "BE") for t in main)
    return (words if aside else main), aside


def _reduce(gap_words: list[Token]) -> Gap:
    """One relation for a gap, in canonical order: verb, else preposition, else conjunction.

    Light and posture verbs give way to the preposition; passives swap the sides.
    """
    words, aside = _main_part(_telling(gap_words))
    gap = Gap(aside=aside, finite=any(t.finite for t in words))
    preps = [t.lemma for t in words if t.tag == "PREP"]
    joins = [t.lemma for t in words if t.tag in ("CONJ", "SUB")]
    joins += ["and"] * any(t.text in (",", ";") for t in gap_words)
    verbs = [i for i, t in enumerate(words) if t.tag == "VERB"]
    if verbs:
        strong = (i for i in verbs[:-1] if words[i].lemma not in WEAK)
        place = next(strong, verbs[-1])  # "tries to catch" -> catch
        verb = words[place]
        after = next((t.lemma for t in words[place + 1 :] if t.tag == "PREP"), "")
        gap.label, gap.kind, gap.swap = verb.lemma, "verb", verb.form == "ed" and after == "by"
        directed = verb.lemma in POSTURES and after in DIRECTED
        if after and not gap.swap and (verb.lemma in LIGHT or directed):
            gap.label, gap.kind = after, "prep"
    elif preps:
        gap.label, gap.kind = preps[0], "prep"
    elif any(t.tag == "BE" for t in words):
        gap.label, gap.kind = "be", "be"
    elif joins:
        gap.label, gap.kind = joins[0], "conj"
    gap.swap ^= gap.label in SWAPPED
    gap.label = INVERSES.get(gap.label, gap.label)
    return gap


def _gaps(tokens: list[Token], entities: list[Entity]) -> list[Gap]:
    """One gap after each entity; the last one runs to the end of the caption."""
    stops = [*(entity.start for entity in entities[1:]), len(tokens)]
    gaps, aside = [], False  # aside: in a subordinate clause or in a later sentence
    for entity, stop in zip(entities, stops, strict=True):
        words = tokens[entity.stop : stop]
        gap = _reduce(words)
        gap.aside |= aside
        aside |= any(t.tag == "SUB" or t.text in STOPS for t in words)
        gaps.append(gap)
    return gaps if gaps[-1].kind == "verb" else [*gaps[:-1], Gap()]


def _root(gaps: list[Gap]) -> int | None:
    """Index of the gap that holds the main predicate, or None if there is no relation at all.

    It is the first finite verb outside relative clauses, else the first verb (one of clothing
    last), else the first preposition but "of", else the first relation.
    """

    def rank(place: int) -> int:
        gap = gaps[place]
        if gap.finite and not (gap.label in CLOTHING or gap.aside or gap.kind == "conj"):
            return 0
        if gap.kind == "verb" and not gap.aside:
            return 1 + (gap.label in CLOTHING)
        return 3 if gap.kind == "prep" and gap.label != "of" else 4

    return min((i for i, gap in enumerate(gaps) if gap.kind), key=rank, default=None)


def _pair(entities: list[Entity], gaps: list[Gap]) -> tuple[str, str, str]:
    """Two leaves and the relation between them, in canonical order."""
    first, second, *_ = [*(entity.label for entity in entities), NULL, NULL]
    if second == NULL:
        return first, NULL, NULL
    return (second, first, gaps[0].label) if gaps[0].swap else (first, second, gaps[0].label)


def _build(entities: list[Entity], gaps: list[Gap]) -> CaptionTree:
    place = _root(gaps)
    root, cut = (Gap(), len(entities)) if place is None else (gaps[place], place + 1)
    left, right = _pair(entities[:cut], gaps[:cut]), _pair(entities[cut:], gaps[cut:])
    if root.swap and right[0] != NULL:
        left, right = right, left
    return CaptionTree(left[:2] + right[:2], (left[2], right[2], root.label))


def parse_caption(text: str) -> CaptionTree | None:
    """The canonical tree of a caption, or None if it names no entity; any string is accepted."""
    tokens = tag_words(text)
    entities = _entities(tokens)
    return _build(entities, _gaps(tokens, entities)) if entities else None
