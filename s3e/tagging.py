"""From a caption to tagged, lemmatised words: a lexicon, suffix rules and the neighbours decide (specification 6.2).

No tagger has to be downloaded. Reconstruction; `s3e.lexicon` holds the word lists.
"""

from dataclasses import dataclass, field

from s3e import lexicon as lx
from s3e.words import NOUN_TOO, VERB_FORMS, guess, is_plural, noun_lemma, split_words, verb_lemma

PRENOMINAL = {"DET", "ADJ", "NUM", "POSS"}
_NOMINAL = {"NOUN", "ADJ", "NUM"}


@dataclass
class Token:
    """A word or a multi-word preposition with its part of speech, lemma and (for verbs) form."""

    text: str
    tag: str  # DET ADJ NUM POSS PRON REL SUB CONJ BE HAVE MODAL ADV PREP PUNCT NOUN VERB
    lemma: str
    form: str = ""  # verbs: base, s, ing, ed; nouns: plural or ""


def is_finite(token: Token) -> bool:
    """Can this verb or auxiliary carry a main clause?"""
    if token.tag == "VERB":
        return token.form in ("s", "base")
    return token.tag in ("BE", "MODAL") and token.text not in ("be", "being", "been", "to", "about to")


@dataclass
class _State:
    """What the tagger remembers while it reads a clause."""

    finite: bool = False  # the present clause has its finite verb
    main_open: bool = False  # a relative clause began before the main clause had one
    plural: bool = False  # the last noun is plural, or joined by "and"
    many: bool = False  # the first noun phrase is
    past_subject: bool = False  # the first noun phrase is over
    tags: list[Token] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """No finite verb is expected any more."""
        return self.finite and not self.main_open

    def new_subject(self) -> bool:
        """Are the last words "and a calf": a conjunction, a determiner, a noun?"""
        tags = [t.tag for t in self.tags[-5:]]
        run = len(tags)
        while run and tags[run - 1] in (*PRENOMINAL, "NOUN"):
            run -= 1
        return 0 < run < len(tags) and tags[run - 1] == "CONJ" and tags[run] == "DET"

    def last(self) -> Token | None:
        """The last word that is no adverb."""
        return next((t for t in reversed(self.tags) if t.tag != "ADV"), None)


def _third_person(noun_too: bool, nxt: str, state: _State, last: Token | None) -> bool:
    """Is a word like "plays" a verb here (True) or a plural noun?"""
    before = last.tag if last else ""
    if before in PRENOMINAL:
        return last.text == "one"
    if before == "":
        return not noun_too
    if before == "CONJ":
        return not noun_too or (state.finite and nxt not in ("", "PUNCT"))
    starts_clause = nxt in ("PREP", "DET", "POSS") and state.new_subject()
    return not noun_too or not state.full or before == "REL" or starts_clause


def _base_form(word: str, nxt: str, state: _State, last: Token | None) -> bool:
    """Is a word like "play" a verb here (True) or a noun?"""
    before = last.tag if last else ""
    if before in ("REL", "SUB"):
        return True
    if before == "CONJ" and state.plural and nxt in ("DET", "POSS", "PREP"):
        return True
    if state.full or before not in ("NOUN", "CONJ", "PUNCT", "PRON"):
        return before == "PRON" and not state.finite
    if before == "PRON" or state.plural or (before == "NOUN" and state.many and word in lx.MOSTLY_VERBS):
        return True
    return before != "PUNCT" and word not in NOUN_TOO


def _participle(form: str, before: str, nxt: str) -> bool:
    """Is "-ing" or "-ed" a verb here (True), or an adjective or noun ("a swimming dog", "a parked car")?"""
    if form == "ing" and (before in ("ADJ", "NUM") and nxt in ("DET", "POSS", "PREP")):
        return True
    if form == "ing" and before not in PRENOMINAL and before not in ("", "PREP"):
        return True
    if nxt in _NOMINAL or nxt == "VERB?":
        return before == "PREP" and nxt == "NUM"
    return before not in PRENOMINAL or form == "ed"


def _is_verb(word: str, form: str, nxt: str, state: _State) -> bool:
    """Decide noun or adjective (False) against verb (True) for a word that may be either, from its neighbours."""
    last = state.last()
    before, noun_too = last.tag if last else "", word in NOUN_TOO
    if before == "BE":
        return form not in ("base", "s")
    if before in ("MODAL", "HAVE"):
        return before == "MODAL" or not noun_too
    if form in ("base", "s") and before == "PREP":
        return last.text == "to" and form == "base" and nxt not in ("", "PUNCT", "CONJ", "BE", "HAVE")
    if form == "s":
        return _third_person(noun_too, nxt, state, last)
    return _base_form(word, nxt, state, last) if form == "base" else _participle(form, before, nxt)


def _verb_or_not(word: str, nxt: str, state: _State) -> Token:
    lemma, form = verb_lemma(word)
    if _is_verb(word, form, nxt, state):
        return Token(word, "VERB", lemma, form)
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
    last, (follower, nxt, j) = state.last(), _next(words, i)
    if nxt == "CONJ" or (nxt == "VERB?" and verb_lemma(follower)[1] in ("ing", "ed")):
        nxt = _next(words, j)[1]
    third = nxt == "VERB?" and verb_lemma(follower)[1] == "s" and not state.plural
    if last is None or nxt in _NOMINAL or (nxt == "VERB?" and not third):
        return False
    if word in lx.COLOURS and last.text == "in":
        return True
    opens = last.tag in PRENOMINAL or last.tag in ("PREP", "VERB")
    return opens and word in lx.NOUN_ADJECTIVES and follower not in NOUN_TOO


def _special(word: str, tag: str, last: Token | None, follower: str, nxt: str) -> Token | None:
    """Words whose class hangs on one neighbour: that, 's, have, do, to."""
    if tag == "REL" and word == "that" and (last is None or last.tag not in ("NOUN", "PUNCT")):
        return Token(word, "DET", word)
    if word == "'s" and (last is None or last.tag != "NOUN"):
        return Token(word, "BE", "be")
    if tag == "HAVE" and nxt not in ("VERB?", "BE"):
        return Token(word, "VERB", "have", "ing" if word == "having" else "s")
    if word in ("do", "does", "did") and nxt in ("DET", "POSS", "ADJ", "NOUN", "NUM"):
        return Token(word, "VERB", "do", "s")
    if word == "to" and (nxt == "BE" or VERB_FORMS.get(follower, ("", ""))[1] == "base"):
        return Token(word, "MODAL", word)
    if tag == "NOUN" and last and nxt in ("DET", "POSS") and _unknown_verb(word, last):
        return Token(word, "VERB", *_stray(word))
    return None


def _stray(word: str) -> tuple[str, str]:
    """Lemma and form of a verb that no list knows: "twirls" -> ("twirl", "s")."""
    if word.endswith("ing"):
        return verb_lemma(word)
    return (noun_lemma(word), "s") if word.endswith("s") else (word, "base")


def _unknown_verb(word: str, last: Token) -> bool:
    """Does a noun-like word between noun and determiner agree with the noun: "girls twirl their", "a man touts an"?"""
    if last.tag not in ("NOUN", "BE"):
        return False
    if word in VERB_FORMS and word in lx.NOUNS_IN_ING:
        return True
    return last.tag == "NOUN" and is_plural(word) != (last.form == "plural")


def _resolve(words: list[tuple[str, str]], i: int, state: _State) -> Token:
    """Tag word i, given its neighbours and the clause so far."""
    word, label = words[i]
    if label:
        return Token(word, {"and": "CONJ", "about_to": "MODAL"}.get(label, "PREP"), label)
    tag, last = guess(word), state.last()
    follower, nxt, _ = _next(words, i)
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
    if token.tag in ("SUB", "REL") or (token.tag == "PUNCT" and token.text != ","):
        state.main_open = token.tag == "REL" and not state.full
        state.finite = False
    elif is_finite(token) or token.tag == "HAVE":
        if state.finite and state.tags[-1].tag not in ("CONJ", "BE", "MODAL", "HAVE", "ADV"):
            state.main_open = False
        state.finite = True
    elif token.tag == "NOUN":
        state.plural = token.form == "plural" or any(t.tag == "CONJ" for t in state.tags[-4:])
        state.many = state.many if state.past_subject else state.plural
    state.past_subject |= token.tag in ("PREP", "VERB", "REL")
    state.tags.append(token)


def tag_words(text: str) -> list[Token]:
    """Tokenise, tag and lemmatise a caption, from left to right."""
    words = split_words(text)
    state = _State()
    for i in range(len(words)):
        _update(state, _resolve(words, i, state))
    return state.tags
