"""Five captions for a tree: many wordings, one meaning (reconstruction, specification 6.2)."""

import numpy as np

from s3e.parsing import NULL, CaptionTree

# verb -> third person, participle, past participle
VERBS = {
    "hold": ("holds", "holding", "held"), "ride": ("rides", "riding", "ridden"),
    "chase": ("chases", "chasing", "chased"), "watch": ("watches", "watching", "watched"),
    "pull": ("pulls", "pulling", "pulled"), "push": ("pushes", "pushing", "pushed"),
    "kick": ("kicks", "kicking", "kicked"), "fly": ("flies", "flying", "flown"),
}  # fmt: skip
PLACES = {
    "left_of": ("left of", "to the left of", "on the left of"), "above": ("above", "over"), "on": ("on", "upon"),
    "in_front_of": ("in front of",), "next_to": ("next to", "beside"),
}  # fmt: skip
INVERSE_PLACES = {
    "left_of": ("right of", "to the right of", "on the right of"), "above": ("below", "under", "beneath", "underneath"),
    "in_front_of": ("behind",),
}  # fmt: skip
COLOUR_WORDS = {
    "brown": ("brown",), "orange": ("orange",), "red": ("red",), "blue": ("blue",), "green": ("green",),
    "yellow": ("yellow", "golden"), "purple": ("purple", "violet"), "white": ("white",),
}  # fmt: skip
SIZE_WORDS = {"small": ("small", "little"), "big": ("big", "large")}
TRAITS = {
    "dog": ("cute", "furry", "brave"), "box": ("wooden", "square", "heavy"), "guitar": ("wooden", "fine"),
    "cat": ("cute", "furry", "soft"), "fish": ("shiny", "wet"), "kite": ("pretty", "light"),
    "car": ("shiny", "fast", "new"), "mushroom": ("round", "fresh"), "house": ("pretty", "lovely"),
    "man": ("happy", "young", "kind"), "boat": ("fast", "wet"), "umbrella": ("pretty", "new"),
    "tree": ("green", "tall", "fresh"), "frog": ("funny", "happy", "wet"), "bottle": ("tall", "empty", "narrow"),
    "star": ("shiny", "funny", "bright"), "bus": ("shiny", "old", "heavy"), "duck": ("cute", "funny", "proud"),
    "woman": ("happy", "young", "kind"), "butterfly": ("pretty", "light", "lovely"), "cup": ("empty", "fine"),
    "rabbit": ("cute", "fluffy", "soft"), "ball": ("round", "light"), "horse": ("calm", "tall", "proud"),
}  # fmt: skip
ADVERBS = {
    "hold": ("happily", "carefully"), "ride": ("happily", "slowly"), "chase": ("quickly", "happily"),
    "watch": ("quietly", "calmly"), "pull": ("slowly", "carefully"), "push": ("slowly", "carefully"),
    "kick": ("quickly", "happily"), "fly": ("happily", "calmly"),
}  # fmt: skip


class Teller:
    """Words one tree: noun phrases, groups and sentences, with the choices drawn from `rng`."""

    def __init__(self, sizes: dict[str, str], colours: dict[str, str], rng: np.random.Generator):
        self.sizes, self.colours, self.rng = sizes, colours, rng

    def pick(self, options: tuple[str, ...]) -> str:
        """One of the options."""
        return options[int(self.rng.integers(len(options)))]

    def chance(self, share: float) -> bool:
        """True in `share` of the draws."""
        return bool(self.rng.random() < share)

    def noun(self, name: str) -> str:
        """A noun phrase whose adjectives are true: "a small red car", "the duck"."""
        words = [name]
        if self.chance(0.4):
            words.insert(0, self.pick(COLOUR_WORDS[self.colours[name]]))
        if len(words) == 1 and self.chance(0.3):
            words.insert(0, self.pick(TRAITS[name]))
        elif self.sizes[name] and self.chance(0.25):
            words.insert(0, self.pick(SIZE_WORDS[self.sizes[name]]))
        article = "an" if words[0][0] in "aeiou" else "a"
        return " ".join([self.pick((article, article, article, "the")), *words])

    def group(self, first: str, sub: str, second: str, swap: bool = False) -> str:
        """A pair as one phrase: "a dog holding a cup", with `swap` also "a cup held by a dog"; or one noun phrase."""
        a = self.noun(first)
        if sub == NULL:
            return a
        b = self.noun(second)
        if sub in VERBS:
            third, doing, done = VERBS[sub]
            if swap and self.chance(0.35):
                return self.pick((f"{b} {done} by {a}", f"{b} that is {done} by {a}"))
            return f"{a} {self.pick((doing, f'that {third}', f'that is {doing}'))} {b}"
        if swap and sub in INVERSE_PLACES and self.chance(0.4):
            return f"{b} {self.pick(INVERSE_PLACES[sub])} {a}"
        return f"{a} {self.pick(('', 'that is '))}{self.pick(PLACES[sub])} {b}"

    def act(self, verb: str, first: str, second: str) -> str:
        """A sentence with a verb as its root."""
        third, doing, done = VERBS[verb]
        adverb = f"{self.pick(ADVERBS[verb])} " if self.chance(0.2) else ""
        active = f"{first} {adverb}{third} {second}", f"{first} is {adverb}{doing} {second}"
        passive = f"{second} is {adverb}{done} by {first}", f"{second} is being {done} by {first}"
        return self.pick(active if self.chance(0.7) else passive)

    def place(self, relation: str, first: str, second: str) -> str:
        """A sentence with a spatial relation as its root."""
        if relation in INVERSE_PLACES and self.chance(0.4):
            first, second, words = second, first, INVERSE_PLACES[relation]
        else:
            words = PLACES[relation]
        copula = self.pick(
            ("is", "is", "stands" if relation in ("left_of", "in_front_of") else "is")
        )
        return f"{first} {copula} {self.pick(words)} {second}"

    def plain(self, relation: str, first: str, second: str) -> str:
        """A verbless or existential caption of a picture with two entities."""
        a, b = self.noun(first), self.noun(second)
        lead = self.pick(("", "", "there is "))
        if relation in VERBS:
            third, doing, _ = VERBS[relation]
            return (
                f"there is {a} that {third} {b}" if self.chance(0.25) else f"{lead}{a} {doing} {b}"
            )
        if relation in INVERSE_PLACES and self.chance(0.4):
            return f"{lead}{b} {self.pick(INVERSE_PLACES[relation])} {a}"
        return f"{lead}{a} {self.pick(PLACES[relation])} {b}"

    def tell(self, tree: CaptionTree) -> str:
        """One caption of the tree."""
        (a, b, c, d), (left, right, root) = tree.entities, tree.relations
        if b == d == NULL and self.chance(0.35):
            return self.plain(root, a, c)
        swap = root not in VERBS
        first, second = self.group(a, left, b, swap), self.group(c, right, d, swap)
        return self.act(root, first, second) if root in VERBS else self.place(root, first, second)


def write_captions(
    tree: CaptionTree, sizes: dict[str, str], colours: dict[str, str], rng: np.random.Generator
) -> tuple[str, ...]:
    """Five captions of `tree`; in two fifths of the pictures with groups, the last one leaves the second entities out.

    `sizes` (category -> "small", "" or "big") and `colours` (category -> colour name) make the adjectives true.
    """
    teller = Teller(sizes, colours, rng)
    captions = [teller.tell(tree) for _ in range(4)]
    (a, _, c, _), root = tree.entities, tree.relations[2]
    short = CaptionTree((a, NULL, c, NULL), (NULL, NULL, root))
    return (*captions, teller.tell(short if teller.chance(0.4) else tree))
