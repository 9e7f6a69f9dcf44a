"""The seven-node tree of a caption and its label vocabulary (specification 6.2).

leaf1  leaf2   leaf3  leaf4        entities
  node 5         node 6            relation inside each pair
         root                      relation between the two pairs
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

NULL = "null"  # an empty slot of the tree, class 0 of both vocabularies
IGNORE = -100  # an out-of-vocabulary label: no loss (the default `ignore_index` of cross-entropy)


@dataclass(frozen=True)
class CaptionTree:
    """Four leaf entities and three relations (node 5, node 6, root), each a lemma or `NULL`."""

    entities: tuple[str, str, str, str]
    relations: tuple[str, str, str]

    @property
    def nodes(self) -> tuple[str, ...]:
        """The seven labels in node order: leaf 1-4, node 5, node 6, root."""
        return self.entities + self.relations


def _frequent(counts: Counter, limit: int, min_count: int) -> list[str]:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [NULL] + [word for word, n in ranked if n >= min_count][:limit]


class TreeVocabulary:
    """Entity and relation classes with their document frequencies; index 0 of both is `NULL`."""

    def __init__(
        self,
        entities: list[str],
        relations: list[str],
        counts: dict[str, dict[str, int]] | None = None,
    ):
        if entities[:1] != [NULL] or relations[:1] != [NULL]:
            raise ValueError(f"TreeVocabulary: entities and relations must start with {NULL!r}.")
        self.entities, self.relations = list(entities), list(relations)
        self.counts = counts or {"entities": {}, "relations": {}}
        entity_ids, relation_ids = (
            {w: i for i, w in enumerate(words)} for words in (self.entities, self.relations)
        )
        self._ids = [entity_ids] * 4 + [relation_ids] * 3

    @classmethod
    def build(
        cls,
        trees: Iterable[CaptionTree | None],
        max_entities: int = 800,
        max_relations: int = 250,
        min_count: int = 1,
    ) -> "TreeVocabulary":
        """Keep the most frequent labels of training `trees` (None is skipped); ties are broken alphabetically."""
        entities, relations = Counter(), Counter()
        for tree in trees:
            if tree is not None:
                entities.update(set(tree.entities) - {NULL})
                relations.update(set(tree.relations) - {NULL})
        words = {
            "entities": _frequent(entities, max_entities, min_count),
            "relations": _frequent(relations, max_relations, min_count),
        }
        counts = {
            "entities": {w: entities[w] for w in words["entities"][1:]},
            "relations": {w: relations[w] for w in words["relations"][1:]},
        }
        return cls(**words, counts=counts)

    def encode(self, tree: CaptionTree | None) -> list[int]:
        """Seven class ids in node order; a label out of the vocabulary (or any label of no tree) becomes `IGNORE`."""
        if tree is None:
            return [IGNORE] * 7
        return [ids.get(word, IGNORE) for ids, word in zip(self._ids, tree.nodes, strict=True)]

    def decode(self, ids: Iterable[int]) -> CaptionTree:
        """The tree of seven class ids; `IGNORE` becomes `NULL`."""
        ids = [max(int(i), 0) for i in ids]
        if len(ids) != 7:
            raise ValueError(
                f"TreeVocabulary.decode needs 7 ids (4 leaves, 2 nodes, root), got {len(ids)}."
            )
        return CaptionTree(
            tuple(self.entities[i] for i in ids[:4]), tuple(self.relations[i] for i in ids[4:])
        )

    def coverage(self, trees: Iterable[CaptionTree | None]) -> dict[str, float]:
        """Shares in [0, 1] of known non-null `entity` and `relation` labels and of wholly known `tree`s."""
        known, total, whole, count = [0, 0], [0, 0], 0, 0
        for tree in trees:
            codes = self.encode(tree)
            count += 1
            whole += IGNORE not in codes
            for k, (code, word) in enumerate(zip(codes, tree.nodes if tree else (), strict=False)):
                if word != NULL:
                    known[k > 3] += code != IGNORE
                    total[k > 3] += 1
        entity, relation = (k / max(n, 1) for k, n in zip(known, total, strict=True))
        return {"entity": entity, "relation": relation, "tree": whole / max(count, 1)}

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy; `from_dict` restores it."""
        return {"entities": self.entities, "relations": self.relations, "counts": self.counts}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "TreeVocabulary":
        return cls(value["entities"], value["relations"], value["counts"])


PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def tokenize(text: str) -> list[str]:
    """Lower-cased words without punctuation; inner hyphens and apostrophes stay ("t-shirt", "dog's")."""
    return [word.replace("’", "'") for word in _WORD.findall(text.lower())]


class Vocabulary:
    """Words of the training captions; ids 0-3 are `PAD`, `BOS`, `EOS`, `UNK`."""

    def __init__(self, words: list[str]):
        if words[:4] != SPECIAL:
            raise ValueError(f"Vocabulary: the first four words must be {SPECIAL}.")
        self.words = list(words)
        self.ids = {word: i for i, word in enumerate(self.words)}

    @classmethod
    def build(cls, captions: Iterable[str], min_count: int = 1) -> "Vocabulary":
        """Keep the words that occur at least `min_count` times, most frequent first, ties alphabetical."""
        counts = Counter(word for caption in captions for word in tokenize(caption))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls(SPECIAL + [word for word, n in ranked if n >= min_count])

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, caption: str, max_words: int = 16) -> list[int]:
        """[BOS, up to `max_words` word ids, EOS]; unknown words become `UNK`."""
        if max_words < 1:
            raise ValueError(f"Vocabulary.encode: max_words must be at least 1, got {max_words}.")
        return [BOS, *(self.ids.get(word, UNK) for word in tokenize(caption)[:max_words]), EOS]

    def decode(self, ids: Iterable[int]) -> str:
        """The words up to the first `EOS`, joined by spaces; `PAD` and `BOS` are left out."""
        words = []
        for i in map(int, ids):
            if i == EOS:
                break
            if i not in (PAD, BOS):
                words.append(self.words[i])
        return " ".join(words)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy; `from_dict` restores it."""
        return {"words": self.words}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Vocabulary":
        return cls(value["words"])
