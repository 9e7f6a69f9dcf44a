"""From a caption to tagged, lemmatised words: a lexicon, suffix rules and the neighbours decide (specification 6.2).

No tagger has to be downloaded. Reconstruction; `s3e.captions.lexicon` holds the word lists.
"""

from dataclasses import dataclass, field
from itertools import pairwise

from s3e.captions import lexicon as lx
from s3e.captions.words import (
    NOUN_TOO,
    VERB_FORMS,
    guess,
    is_plural,
    noun_lemma,
    split_words,
    verb_lemma,
)

PRENOMINAL = {"DET", "ADJ", "NUM", "POSS"}
_NOMINAL = {"NOUN", "ADJ", "NUM"}


@dataclass
class Token:
    """A word or a multi-word preposition with its part of speech, lemma and (for verbs) form."""

    text: str
    tag: str  # DET ADJ NUM POSS PRON REL SUB CONJ BE HAVE MODAL ADV PREP PUNCT NOUN VERB
    lemma: str
    form: str = ""  # verbs: base, inf (after "to"), s, past, ing, ed; nouns: plural or ""

    @classmethod
    def of_phrase(cls, text: str, label: str) -> "Token":
        """The token of a multi-word preposition (or conjunction, auxiliary, adverb) with its label."""
        return cls(
            text, {"and": "CONJ", "about_to": "MODAL", "adverb": "ADV"}.get(label, "PREP"), label
        )


def is_finite(token: Token) -> bool:
    """Can this verb or auxiliary carry a main clause?"""
    if token.tag == "VERB":
        return token.form in ("s", "base", "past")
    return token.tag in ("BE", "MODAL") and token.text not in (
        "be",
        "being",
        "been",
        "to",
        "about to",
    )


@dataclass
class _State:
    """What the tagger remembers while it reads a clause."""

    finite: bool = False  # the present clause has its finite verb
    main_open: bool = False  # a relative clause began before the main clause had one
    plural: bool = False  # the last noun is plural, or joined by "and"
    many: bool = False  # the first noun phrase is
    past_subject: bool = False  # the first noun phrase is over
    verbal: bool = False  # there was a verb
    aside: bool = False  # the caption opens with a subordinate clause, and it goes on
    last: Token | None = None  # the last word that is no adverb
    tags: list[Token] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """No finite verb is expected any more."""
        return self.finite and not self.main_open

    def joined_phrase(self) -> list[Token]:
        """The noun phrase after the last conjunction, in "and a calf": [a, calf]."""
        run = self._phrase_start(len(self.tags))
        return self.tags[run:] if run and self.tags[run - 1].tag == "CONJ" else []

    def phrase_before(self) -> list[Token]:
        """The noun phrase before a conjunction at the end, in "his arm and": [his, arm]."""
        end = len(self.tags) - 1
        return self.tags[self._phrase_start(end) : end]

    def _phrase_start(self, end: int) -> int:
        while end and self.tags[end - 1].tag in (*PRENOMINAL, "NOUN"):
            end -= 1
        return end

    def in_phrase(self) -> bool:
        """Is a noun to come, after an article or possessive and perhaps adjectives: "a large (set)"?"""
        start = self._phrase_start(len(self.tags))
        opening = self.tags[start] if start < len(self.tags) else None
        return opening is not None and (opening.tag == "POSS" or opening.text in _ARTICLES)

    def object_acts(self, noun: Token) -> bool:
        """Is a noun at the end somebody and the object of "watch" or "help": "watches the boys (play)"?"""
        somebody = (
            noun.lemma in lx.PERSONS or noun.form == "plural" or noun.text.endswith(("er", "or"))
        )
        start = self._phrase_start(len(self.tags))
        return somebody and start > 0 and self.tags[start - 1].lemma in lx.PERCEPTION

    def colour_and(self) -> bool:
        """Are the last words "in black and"?"""
        before = self.tags[-2:]
        return (
            len(before) == 2
            and before[0].tag == "NOUN"
            and before[0].text in lx.COLOURS
            and before[1].tag == "CONJ"
        )


_OPENS = ("DET", "POSS", "PREP")  # what follows a verb rather than a noun in a compound
_ENDS = ("", "PUNCT")
_ARTICLES = ("a", "an", "the")


def _joined_verb(noun_too: bool, nxt: str, state: _State) -> bool:
    """After "and": a verb with its object or preposition, or the last word, "raises his arm and jumps"?"""
    if not noun_too or not state.finite:
        return not noun_too
    before = state.phrase_before()
    return nxt not in _ENDS or bool(before) and before[0].tag in ("DET", "POSS")


def _third_person(noun_too: bool, nxt: str, state: _State, last: Token | None) -> bool:
    """Is a word like "plays" a verb here (True) or a plural noun?"""
    before = last.tag if last else ""
    if before in PRENOMINAL:
        return last.text in ("one", "another")
    if before == "":
        return not noun_too
    if before == "CONJ":
        return _joined_verb(noun_too, nxt, state)
    if before == "VERB" and noun_too:
        return False
    joined = state.joined_phrase() if nxt in _OPENS else []
    return (
        not noun_too or not state.full or before == "REL" or bool(joined) and joined[0].tag == "DET"
    )


def _base_form(word: str, nxt: str, state: _State, last: Token | None) -> bool:
    """Is a word like "play" a verb here (True) or a noun?"""
    before = last.tag if last else ""
    if before in ("REL", "SUB"):
        return True
    if before == "NOUN" and state.object_acts(last):
        return True
    if before == "CONJ" and (state.plural or word not in NOUN_TOO):
        return (
            word not in NOUN_TOO
            or nxt in _OPENS
            or nxt in _ENDS
            and state.many
            and _joined_verb(True, nxt, state)
        )
    if state.full or before not in ("NOUN", "CONJ", "PUNCT", "PRON"):
        return before == "PRON" and not state.finite
    if (
        before == "PRON"
        or state.plural
        or (before == "NOUN" and state.many and word in lx.MOSTLY_VERBS)
    ):
        return True
    if nxt in _OPENS and (last.lemma in lx.PERSONS or state.many and not state.verbal):
        return True
    return before != "PUNCT" and word not in NOUN_TOO


def _participle(form: str, last: Token | None, nxt: str, state: _State) -> bool:
    """Is "-ing" or "-ed" a verb here (True), or an adjective or noun ("a swimming dog", "a parked car")?"""
    before = last.tag if last else ""
    after_noun = (
        before == "ADJ" and len(state.tags) > 1 and state.tags[-2].tag == "NOUN"
    )  # "his eyes closed tossing"
    if form == "ing" and (
        after_noun or before in ("ADJ", "NUM") and nxt in _OPENS or before == "NUM" and nxt in _ENDS
    ):
        return True
    if form == "ing" and (
        before not in (*PRENOMINAL, "", "PREP") or last and last.text == "another"
    ):
        return True
    if nxt in _NOMINAL or nxt == "VERB?":
        return before == "PREP" and nxt == "NUM"
    return before not in PRENOMINAL or form == "ed" and not state.in_phrase()


def _is_verb(word: str, form: str, nxt: str, state: _State) -> bool:
    """Decide noun or adjective (False) against verb (True) for a word that may be either, from its neighbours."""
    last = state.last
    before, noun_too = last.tag if last else "", word in NOUN_TOO
    if before == "BE":
        return form not in ("base", "s")
    if before in ("MODAL", "HAVE"):
        return before == "MODAL" or form in ("ing", "ed") or not noun_too
    if form in ("base", "s") and before == "PREP":
        return (
            last.text == "to" and form == "base" and nxt not in ("", "PUNCT", "CONJ", "BE", "HAVE")
        )
    if form == "s":
        return _third_person(noun_too, nxt, state, last)
    return (
        _base_form(word, nxt, state, last)
        if form == "base"
        else _participle(form, last, nxt, state)
    )


def _verb_or_not(word: str, nxt: str, state: _State) -> Token:
    (lemma, form), last = verb_lemma(word), state.last
    if _is_verb(word, form, nxt, state):
        infinitive = (
            form == "base"
            and last is not None
            and (last.lemma in ("to", "about_to") or last.tag == "NOUN" and state.object_acts(last))
        )
        return Token(word, "VERB", lemma, "inf" if infinitive else form)
    if form == "ed" and last is not None and not word.endswith("ed") and nxt not in _NOMINAL:
        return _noun(word)  # "the ground"
    if form == "ed" or (form == "ing" and nxt in (*_NOMINAL, "VERB?")):
        return Token(word, "ADJ", word)
    return _noun(word)


def _noun(word: str) -> Token:
    return Token(word, "NOUN", noun_lemma(word), "plural" if is_plural(word) else "")


def _next(words: list[tuple[str, str]], i: int) -> tuple[str, str, int]:
    """The next word after position i that is no adverb, its class ("" at the end) and its position."""
    i += 1
    while i < len(words) and not words[i][1] and guess(words[i][0]) == "ADV":
        i += 1
    if i >= len(words):
        return "", "", i
    return words[i][0], "PREP" if words[i][1] else guess(words[i][0]), i


def _nominal_adjective(word: str, state: _State, words: list[tuple[str, str]], i: int) -> bool:
    """Does an adjective stand for a noun: "a man in black sits", "an orange"?"""
    last, (follower, nxt, j) = state.last, _next(words, i)
    while (
        nxt == "CONJ"
        or (nxt == "VERB?" and verb_lemma(follower)[1] in ("ing", "ed"))
        or follower in lx.COLOURS
    ):
        follower, nxt, j = _next(words, j)
    third = nxt == "VERB?" and verb_lemma(follower)[1] == "s" and not state.plural
    if last is None or nxt in _NOMINAL or (nxt == "VERB?" and not third):
        return False
    if word in lx.COLOURS and (last.text in ("in", "wearing") or state.colour_and()):
        return True
    opens = (
        last.tag in (*PRENOMINAL, "PREP", "VERB") or last.tag == "NOUN" and word not in lx.COLOURS
    )
    if word == "back":
        return last.tag == "POSS"
    return opens and word in lx.NOUN_ADJECTIVES and follower not in NOUN_TOO


def _participle_too(word: str) -> bool:
    return word in ("come", "become", "run") or verb_lemma(word)[1] in ("ed", "ing")


def _special(word: str, tag: str, last: Token | None, follower: str, nxt: str) -> Token | None:
    """Words whose class hangs on one neighbour: that, 's, have, do, to, midair."""
    if tag == "REL" and word == "that" and (last is None or last.tag not in ("NOUN", "PUNCT")):
        return Token(word, "DET", word)
    if word == "'s" and (last is None or last.tag != "NOUN"):
        own = last is not None and last.text == "it" and nxt in _NOMINAL  # "on it's roof"
        return Token(word, "POSS" if own else "BE", "be")
    if word in ("all", "both") and last and last.tag in ("NOUN", "BE", "CONJ") and nxt == "VERB?":
        return Token(word, "ADV", word)
    if word == "can" and last and last.tag in PRENOMINAL:
        return _noun(word)
    if (
        tag == "ADJ"
        and nxt == "PREP"
        and word.endswith("ed")
        and last
        and last.tag in ("NOUN", "BE")
    ):
        return Token(word, "VERB", *verb_lemma(word))  # "rocks covered with snow"
    if tag == "ADV" and nxt == "NOUN" and last and last.tag in ("DET", "POSS"):
        return Token(word, "ADJ", word)
    if tag == "HAVE" and not (nxt == "BE" or nxt == "VERB?" and _participle_too(follower)):
        return Token(word, "VERB", "have", "ing" if word == "having" else "s")
    if word in ("do", "does", "did") and nxt in ("DET", "POSS", "ADJ", "NOUN", "NUM"):
        return Token(word, "VERB", "do", "s")
    if word == "to" and (nxt == "BE" or VERB_FORMS.get(follower, ("", ""))[1] == "base"):
        return Token(word, "MODAL", word)
    if (word == "midair" or word.startswith("mid-")) and (last is None or last.tag != "PREP"):
        return Token(word, "ADV", word)
    if tag == "NOUN" and last and _unknown_verb(word, last, follower, nxt):
        return Token(word, "VERB", *_stray(word))
    return None


def _activity(word: str, follower: str, last: Token | None) -> bool:
    """Is a noun part of the verb after it: "is rock climbing", "a woman rock climbing"?"""
    if guess(follower) != "VERB?":
        return False
    if f"{word}_{follower}" in lx.ACTIVITIES:
        return last is None or last.tag not in (*PRENOMINAL, "PREP", "VERB")
    return last is not None and last.tag == "BE"


def _stray(word: str) -> tuple[str, str]:
    """Lemma and form of a verb that no list knows: "twirls" -> ("twirl", "s")."""
    if word.endswith("ing"):
        return verb_lemma(word)
    return (noun_lemma(word), "s") if word.endswith("s") else (word, "base")


def _unknown_verb(word: str, last: Token, follower: str, nxt: str) -> bool:
    """Does a noun-like word between noun and determiner agree with the noun: "girls twirl their", "a man touts an"?"""
    if last.tag == "REL" or last.text in ("he", "she", "it"):
        return (
            word.endswith("s")
            and nxt not in ("BE", "MODAL")
            and (nxt != "VERB?" or follower in NOUN_TOO)
        )
    if last.tag not in ("NOUN", "BE") or nxt not in ("DET", "POSS") or follower == "'s":
        return False
    if word in VERB_FORMS and word in lx.NOUNS_IN_ING:
        return True
    return last.tag == "NOUN" and is_plural(word) != (last.form == "plural")


def _compound(words: list[tuple[str, str]], i: int) -> bool:
    """Is word i, with the one before or after it, a frequent compound? An adjective only as its end ("ice cream")."""
    word = words[i][0]
    if i and (words[i - 1][0], noun_lemma(word)) in lx.COMPOUNDS:
        return True
    after = words[i + 1][0] if i + 1 < len(words) and guess(word) != "ADJ" else ""
    return bool(after) and (word, noun_lemma(after)) in lx.COMPOUNDS


def _resolve(words: list[tuple[str, str]], i: int, state: _State) -> Token:
    """Tag word i, given its neighbours and the clause so far."""
    word, label = words[i]
    if label:
        return Token.of_phrase(word, label)
    tag, last = guess(word), state.last
    follower, nxt, _ = _next(words, i)
    if tag in ("NOUN", "VERB?") and follower.endswith("ing") and _activity(word, follower, last):
        return Token(word, "ADV", word)
    if tag in ("NOUN", "VERB?", "ADJ") and _compound(words, i):
        return _noun(word)
    special = _special(word, tag, last, follower, nxt)
    if special and not (tag == "NOUN" and state.full):
        return special
    if tag == "VERB?":
        return _verb_or_not(word, nxt, state)
    if tag == "PRON" and word in ("someone", "somebody"):
        return Token(word, "NOUN", "person")
    if tag == "NOUN" or (tag == "ADJ" and _nominal_adjective(word, state, words, i)):
        return _noun(word)
    return Token(word, tag, word)


def _update(state: _State, token: Token) -> None:
    """Keep track of the clause: has it a finite verb, is its subject plural?"""
    if token.tag in ("SUB", "REL") or (token.tag == "PUNCT" and (token.text != "," or state.aside)):
        state.main_open = token.tag == "REL" and not state.full
        state.finite = False
        state.aside = token.tag == "SUB" and not state.tags
    elif is_finite(token) or token.tag == "HAVE":
        if state.finite and state.tags[-1].tag not in ("CONJ", "BE", "MODAL", "HAVE", "ADV"):
            state.main_open = False
        state.finite = True
    elif token.tag == "NOUN":
        joined = any(b.tag == "CONJ" and a.tag == "NOUN" for a, b in pairwise(state.tags[-5:]))
        state.plural = token.form == "plural" or token.lemma in lx.COLLECTIVES or joined
        if not state.past_subject or (joined and not state.verbal):
            state.many = state.plural
    state.verbal |= token.tag == "VERB"
    state.past_subject |= token.tag in ("PREP", "VERB", "REL")
    state.last = state.last if token.tag == "ADV" else token
    state.tags.append(token)


def tag_words(text: str) -> list[Token]:
    """Tokenise, tag and lemmatise a caption, from left to right."""
    words = split_words(text)
    state = _State()
    for i in range(len(words)):
        _update(state, _resolve(words, i, state))
    return state.tags
