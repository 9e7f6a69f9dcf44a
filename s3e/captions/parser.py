"""Captions to seven-node trees in a canonical order, by rules (specification 6.2).

`parse_caption` tags and lemmatises a caption (`s3e.captions.tagger`), finds its entities (noun runs) and reduces what stands
between two entities to one relation: the main-verb lemma, else the preposition, else the conjunction. The root is the
predicate of the main clause; entities before it fill the left pair of leaves, those after it the right pair.

Canonical order: "A left of B" and "B right of A" describe the same picture, so a relation that has an inverse is always
written one way (`INVERSES`), and a passive is turned into its active form; the two sides swap places. "on top of" stays
apart from "on". Posture verbs give way to a directed preposition ("stands behind"), but not to "on" or "in".

Reconstruction: the published work used an off-the-shelf grammar parser and did not publish its rules.
"""

from dataclasses import dataclass
from typing import Any

from s3e.captions import lexicon as lx
from s3e.captions.lexicon import DIRECTED, INVERSES, LOOSE, PARTICLES
from s3e.captions.tagger import PRENOMINAL, Token, is_finite, tag_words
from s3e.captions.tree import IGNORE, NULL, CaptionTree, TreeVocabulary

__all__ = [
    "IGNORE",
    "INVERSES",
    "NULL",
    "CaptionTree",
    "TreeVocabulary",
    "explain",
    "parse_caption",
]

CLOSE = {"in", "with", "of"}  # prepositions that describe a noun rather than place it
ANAPHORS = {"PRON", "POSS", "DET", "NUM"}  # without a noun: "with it", "behind her", "to another"
NO_ANAPHORS = {"a", "an", "the", "something", "nothing", "everything", "anything"}
STOPS = {".", ";", "!", "?"}


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
    kind: str = ""  # verb, prep, conj, be, absolute (a verb that says nothing about the subject) or "" (nothing)
    swap: bool = False  # passive: the sides are reversed
    finite: bool = False
    relative: bool = False  # inside a relative or subordinate clause
    comma: bool = False
    joined: bool = False  # starts with a conjunction


def _entities(tokens: list[Token]) -> list[Entity]:
    """Maximal noun runs with their determiners and adjectives; head = last noun, or a frequent compound."""
    found, i = [], 0
    while i < len(tokens):
        start, i = i, _run(tokens, i)
        stop = i
        while stop > start and tokens[stop - 1].tag != "NOUN":
            stop -= 1
        if stop == start:
            i = max(i, start + 1)
        elif i == stop and _measures(tokens, start, i):
            for token in tokens[
                start : i + 1
            ]:  # "a group of" becomes a determiner of the next noun
                token.tag = "DET"
            i = start
        else:
            found.append(Entity(start, stop, _head(tokens[start:stop])))
    return found


def _run(tokens: list[Token], i: int) -> int:
    """End of the noun run that starts at i; a determiner after a noun starts a new one."""
    start = i
    while i < len(tokens) and (
        tokens[i].tag in PRENOMINAL or tokens[i].tag == "NOUN" or _links(tokens, i, start)
    ):
        if i > start and tokens[i].tag == "DET" and tokens[i - 1].tag == "NOUN":
            break
        i += 1
    return i


def _links(tokens: list[Token], i: int, start: int) -> bool:
    """Does word i join two adjectives or an adverb to its adjective: "a big , green hill", "a brightly lit room"?"""
    if i == start or i + 1 == len(tokens) or tokens[i + 1].tag != "ADJ":
        return False
    if tokens[i].tag == "ADV":
        return tokens[i - 1].tag in PRENOMINAL
    return tokens[i - 1].tag == "ADJ" and (tokens[i].tag == "CONJ" or tokens[i].text == ",")


def _head(run: list[Token]) -> str:
    """The last noun of a run, or the frequent compound of three or two words that it ends."""
    for size in (3, 2):
        words = (*(t.text for t in run[-size:-1]), run[-1].lemma)
        if words in lx.COMPOUNDS:
            return "_".join(words)
    return run[-1].lemma


def _measures(tokens: list[Token], start: int, i: int) -> bool:
    """Does the noun run [start, i) only measure or place the noun after "of"? Not so in "takes a picture of"."""
    if tokens[i - 1].lemma not in lx.PARTITIVES or i == len(tokens) or tokens[i].text != "of":
        return False
    if tokens[i - 1].lemma in lx.PICTURES and start and tokens[start - 1].tag == "VERB":
        return False
    return any(t.tag == "NOUN" for t in tokens[i + 1 : _run(tokens, i + 1)])


def _breaks(token: Token) -> bool:
    """Does a relative or subordinate clause or a new sentence begin here?"""
    return token.tag in ("REL", "SUB") or token.text in STOPS


def _main_part(words: list[Token]) -> tuple[list[Token], bool]:
    """Cut "that sleeps is left of" down to "is left of": (tokens, still inside a relative clause?)."""
    relative = next((i for i, t in enumerate(words) if _breaks(t)), None)
    if relative is None:
        finite = next((i for i, t in enumerate(words) if is_finite(t)), 0)
        cut = (
            finite
            and words[finite - 1].tag != "CONJ"
            and any(t.tag == "VERB" for t in words[:finite])
        )
        return (words[finite:] if cut else words), False
    if any(t.tag in ("VERB", "BE") for t in words[:relative]):
        return words[:relative], False
    finite = [i for i, t in enumerate(words) if i > relative and is_finite(t)]
    finite = [
        i
        for k, i in enumerate(finite)
        if k == 0 or words[i - 1].tag not in ("BE", "MODAL", "HAVE", "CONJ")
    ]
    return (words[finite[1] :], False) if len(finite) > 1 else (words, True)


def _telling(words: list[Token]) -> list[Token]:
    """The words of a gap without fillers, without "with it" and without the first word of "up against"."""
    kept: list[Token] = []
    for k, token in enumerate(words):
        after = words[k + 1] if k + 1 < len(words) else None
        if (
            token.tag == "PREP"
            and after
            and after.tag in ANAPHORS
            and after.text not in NO_ANAPHORS
        ):
            continue
        if token.tag == "PREP" and kept and kept[-1].tag == "PREP" and kept[-1].text in PARTICLES:
            kept.pop()
        if token.tag not in ("DET", "ADV", "PRON") and (
            token.tag != "PUNCT" or token.text in STOPS
        ):
            kept.append(token)
    return kept


def _content_verb(words: list[Token]) -> int | None:
    """Index of the verb that names the relation: the first with content ("tries to catch" -> catch), else the first."""
    verbs = [i for i, t in enumerate(words) if t.tag == "VERB"]
    for k, i in enumerate(verbs):
        lemma, posture = (
            words[i].lemma,
            words[verbs[-1]].form == "ing" and words[i].lemma in lx.POSTURES,
        )
        weak = posture or lemma in lx.CATENATIVES or lemma in lx.LIGHT_VERBS
        if not (weak and k + 1 < len(verbs)):
            return i
    return None


def _reduce(words: list[Token]) -> Gap:
    """Reduce the tokens of a gap to one relation: main-verb lemma, else preposition, else conjunction."""
    gap = Gap(
        comma=any(t.text in (",", ";") for t in words),
        joined=any(t.tag == "CONJ" for t in words[:2]),
    )
    words, gap.relative = _main_part(_telling(words))
    gap.finite = any(is_finite(t) for t in words)
    preps = [t.lemma for t in words if t.tag == "PREP"]
    verb = _content_verb(words)
    if verb is not None:
        return _verb_gap(gap, words, verb)
    joins = [t.lemma for t in words if t.tag in ("CONJ", "SUB")]
    if preps:
        gap.label, gap.kind = next((p for p in preps if p in LOOSE), preps[0]), "prep"
    elif any(t.tag == "BE" for t in words) and not gap.joined:
        gap.label, gap.kind = "be", "be"
    elif joins or gap.comma:
        gap.label, gap.kind = (joins or ["and"])[0], "conj"
    return gap


def _verb_gap(gap: Gap, words: list[Token], verb: int) -> Gap:
    """Fill `gap` from its verb; light and posture verbs give way to the preposition, passives swap the sides."""
    token = words[verb]
    after = [t.lemma for t in words[verb + 1 :] if t.tag == "PREP"]
    directed = next((p for p in after if p in DIRECTED), None)
    if token.form == "ed" and after[:1] == ["by"] and token.lemma not in lx.STATES | lx.LIGHT_VERBS:
        gap.label, gap.kind, gap.swap = token.lemma, "verb", True
    elif token.lemma in lx.LIGHT_VERBS and after and (token.lemma != "show" or token.form == "ed"):
        gap.label, gap.kind = directed or after[0], "prep"
    elif token.lemma in lx.POSTURES and directed:
        gap.label, gap.kind = directed, "prep"
    else:
        gap.label, gap.kind = token.lemma, "verb"
    if token.form == "ed" and verb and any(t.tag == "BE" for t in words[:verb]):
        gap.finite = True
    return gap


def _gaps(tokens: list[Token], entities: list[Entity]) -> list[Gap]:
    """One gap after each entity; the last one runs to the end of the caption."""
    end = next(i for i in range(len(tokens), 0, -1) if tokens[i - 1].tag != "PUNCT")
    stops = [e.start for e in entities[1:]] + [end]
    words = [tokens[e.stop : stop] for e, stop in zip(entities, stops, strict=True)]
    gaps = [_reduce(part) for part in words]
    if gaps[-1].kind != "verb":
        state = gaps[-1].finite and not gaps[-1].relative  # "people in scarves are outside"
        gaps[-1] = Gap("be", "be", finite=True) if state else Gap()
    _subordinate(gaps, words, aside=any(t.tag == "SUB" for t in tokens[: entities[0].start]))
    for before, gap, part, entity in zip(gaps, gaps[1:], words[1:], entities[1:], strict=False):
        if before.kind == "prep" and gap.kind == "verb" and not gap.finite:
            body = tokens[entity.start].tag == "POSS" and entity.label in lx.BODY
            gap.kind = (
                "absolute" if _describes_object(before.label == "with", part, body) else gap.kind
            )
    return gaps


def _describes_object(having: bool, part: list[Token], body: bool) -> bool:
    """Does a participle tell of the noun before it: "with her hair flying", "in a field covered with snow"?"""
    verb = part[0]
    if verb.tag != "VERB":
        return False
    described = verb.form == "ed" and (
        verb.lemma in lx.DESCRIBING or having and len(part) > 1 and verb.lemma not in lx.STATES
    )
    return described or (having and body)


def _subordinate(gaps: list[Gap], words: list[list[Token]], aside: bool) -> None:
    """Mark what lies in a subordinate clause (up to a comma, if it opens the caption) or in a later sentence."""
    opening = aside
    for gap, part in zip(gaps, words, strict=True):
        gap.relative |= aside
        if opening and gap.comma:
            opening = aside = False
        aside |= any(t.tag == "SUB" or t.text in STOPS for t in part)


def _invert(gaps: list[Gap], tokens: list[Token], entities: list[Entity]) -> None:
    """Locative inversion, "left of a house is a dog": the bare "be" takes the fronted preposition, sides reversed."""
    front = [t for t in tokens[: entities[0].start] if t.tag == "PREP"]
    if not front or any(t.tag in ("BE", "VERB") for t in tokens[: entities[0].start]):
        return
    for gap in gaps[:-1]:
        if gap.finite and not gap.relative:
            if gap.kind == "be" or (gap.kind == "verb" and gap.label in lx.POSTURES):
                gap.label, gap.kind, gap.swap = front[0].lemma, "prep", True
            return


def _joins_groups(gaps: list[Gap]) -> bool:
    """Are three gaps those of "a dog on a box and a cat on a car", not of "a man in a coat and a hat on a bench"?"""
    return [gap.kind for gap in gaps] == ["prep", "conj", "prep"] and gaps[0].label not in CLOSE


def _root(gaps: list[Gap], existential: bool = False) -> int | None:
    """Index of the gap that holds the main predicate, or None if there is no relation at all.

    It is the first finite verb outside relative clauses, else the first verb, else a loose preposition, else a
    conjunction between two prepositional groups ("a dog on a box and a cat on a car"), else the first relation. Verbs
    of clothing give way to others. After "there is" a coordinated verb ("holding a cup and watching a cat") or a
    relative clause comes before other verbs.
    """
    live = [i for i, gap in enumerate(gaps) if gap.kind]
    verbs = [i for i in live if gaps[i].kind == "verb" and not gaps[i].relative]
    acts = [i for i in verbs if gaps[i].label not in lx.CLOTHING]
    main = [i for i in live if gaps[i].finite and not gaps[i].relative and gaps[i].kind != "conj"]
    after_relative = [i for i in main if not (gaps[i].joined and any(g.relative for g in gaps[:i]))]
    if main:
        first = (after_relative or main)[0]
        return (
            next((i for i in acts if i > first), first)
            if gaps[first].label in lx.CLOTHING
            else first
        )
    told = [i for i in live if existential and gaps[i].kind == "verb"]
    loose = [
        i
        for i in live
        if gaps[i].kind == "prep" and gaps[i].label in LOOSE and not gaps[i].relative
    ]
    if (
        verbs and not acts
    ):  # "a woman on a street wearing a shirt", but "a woman in boots wearing a shirt"
        acts = [i for i in live[:1] if gaps[i].kind == "prep" and gaps[i].label not in CLOSE]
    groups = (
        [i for i in loose if i and gaps[i].comma],
        [i for i in told if i and gaps[i].joined],
        [i for i in told if gaps[i].relative],
        acts,
        verbs,
        loose,
        [i for i in live if gaps[i].kind == "verb"],
        [i for i in live[1:-1] if _joins_groups(gaps[i - 1 : i + 2])],
        [
            i for i in live if gaps[i].kind == "prep" and gaps[i].label != "of"
        ],  # "a cup of coffee on a table"
        [i for i in live if gaps[i].kind in ("prep", "be")],
        live,
    )
    return next((group[0] for group in groups if group), None)


def _canonical(gap: Gap) -> tuple[str, bool]:
    label, swap = INVERSES.get(gap.label, (gap.label, False))
    return label, swap != gap.swap


def _pair(entities: list[Entity], gap: Gap | None) -> tuple[tuple[str, str], str]:
    """Two leaves and the relation between them, in canonical order."""
    labels = [e.label for e in entities[:2]] + [NULL] * (2 - len(entities[:2]))
    if len(entities) < 2 or gap is None:
        return (labels[0], labels[1]), NULL
    relation, swap = _canonical(gap)
    return ((labels[1], labels[0]) if swap else (labels[0], labels[1])), relation


def _build(entities: list[Entity], gaps: list[Gap], existential: bool) -> CaptionTree:
    root = _root(gaps, existential)
    cut = len(entities) if root is None else root + 1
    left, node5 = _pair(entities[:cut], gaps[0])
    right, node6 = _pair(entities[cut:], gaps[cut] if cut < len(gaps) else None)
    relation, swap = _canonical(gaps[root]) if root is not None else (NULL, False)
    if swap and right[0] != NULL:
        left, right, node5, node6 = right, left, node6, node5
    return CaptionTree(left + right, (node5, node6, relation))


def _parse(text: str) -> tuple[list[Token], list[Entity], CaptionTree | None]:
    tokens = tag_words(text)
    entities = _entities(tokens)
    if not entities:
        return tokens, [], None
    gaps = _gaps(tokens, entities)
    _invert(gaps, tokens, entities)
    existential = any(t.text == "there" for t in tokens[: entities[0].start])
    return tokens, entities, _build(entities, gaps, existential)


def parse_caption(text: str) -> CaptionTree | None:
    """The canonical tree of a caption, or None if it names no entity; any string is accepted."""
    return _parse(text)[2]


def explain(text: str) -> dict[str, Any]:
    """How a caption was read: lists `tokens`, `tags`, `lemmas`, `chunks` (text, label) and the `tree` (or None)."""
    tokens, entities, tree = _parse(text)
    chunks = [(" ".join(t.text for t in tokens[e.start : e.stop]), e.label) for e in entities]
    return {
        "tokens": [t.text for t in tokens],
        "tags": [t.tag for t in tokens],
        "lemmas": [t.lemma for t in tokens],
        "chunks": chunks,
        "tree": tree,
    }
