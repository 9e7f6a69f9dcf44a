"""The seven-node tree of a caption; vocabularies of labels and words (specification 6.2, 4.1).

leaf1  leaf2   leaf3  leaf4        entities
  node 5         node 6            relation inside each pair
         root                      relation between the two pairs
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

NULL = "null"  # an empty slot of the tree, class 0 of both label vocabularies
IGNORE = -100  # an out-of-vocabulary label: no loss (the default `ignore_index` of cross-entropy)
NODE_NAMES = ("leaf 1", "leaf 2", "leaf 3", "leaf 4", "node 5", "node 6", "root")
EDGES = ((0, 4), (1, 4), (2, 5), (3, 5), (4, 6), (5, 6))  # child, parent

PAD, BOS, EOS, UNK = range(4)
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass(frozen=True)
class CaptionTree:
    """Four leaf entities and three relations (node 5, node 6, root), each a lemma or `NULL`."""

    entities: tuple[str, str, str, str]
    relations: tuple[str, str, str]

    @property
    def nodes(self) -> tuple[str, ...]:
        """The seven labels in node order: leaf 1-4, node 5, node 6, root."""
        return self.entities + self.relations


def _frequent(counts: Counter, min_count: int, limit: int | None) -> list[str]:
    """The most frequent words first, ties alphabetical."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [word for word, count in ranked if count >= min_count][:limit]


class TreeVocabulary:
    """Entity and relation classes; index 0 of both is `NULL`."""

    def __init__(self, entities: list[str], relations: list[str]):
        self.entities, self.relations = entities, relations
        lists = [entities] * 4 + [relations] * 3
        self._ids = [{word: i for i, word in enumerate(words)} for words in lists]

    @classmethod
    def build(
        cls,
        trees: Iterable[CaptionTree | None],
        max_entities: int,
        max_relations: int,
        min_count: int,
    ) -> "TreeVocabulary":
        """Keep the labels that occur in most training `trees` (None is skipped)."""
        trees = [tree for tree in trees if tree]
        entities = Counter(label for tree in trees for label in {*tree.entities} - {NULL})
        relations = Counter(label for tree in trees for label in {*tree.relations} - {NULL})
        return cls(
            [NULL, *_frequent(entities, min_count, max_entities)],
            [NULL, *_frequent(relations, min_count, max_relations)],
        )

    def encode(self, tree: CaptionTree | None) -> list[int]:
        """Seven class ids in node order; `IGNORE` where a label is unknown or there is no tree."""
        if tree is None:
            return [IGNORE] * 7
        return [ids.get(word, IGNORE) for ids, word in zip(self._ids, tree.nodes, strict=True)]


def tokenize(text: str) -> list[str]:
    """Lower-cased words without punctuation; inner hyphens and apostrophes stay ("dog's")."""
    return [word.replace("’", "'") for word in _WORD.findall(text.lower())]


class Vocabulary:
    """Words of the training captions; ids 0-3 are `PAD`, `BOS`, `EOS`, `UNK`."""

    def __init__(self, words: list[str]):
        self.words = words
        self.ids = {word: i for i, word in enumerate(words)}

    @classmethod
    def build(cls, captions: Iterable[str], min_count: int) -> "Vocabulary":
        """Keep the words that occur at least `min_count` times, the most frequent first."""
        counts = Counter(word for caption in captions for word in tokenize(caption))
        return cls(SPECIAL + _frequent(counts, min_count, None))

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, caption: str, max_words: int) -> list[int]:
        """[BOS, up to `max_words` word ids, EOS]; unknown words become `UNK`."""
        return [BOS, *(self.ids.get(word, UNK) for word in tokenize(caption)[:max_words]), EOS]

    def decode(self, ids: Iterable[int]) -> str:
        """The words up to the first `EOS`, joined by spaces; `PAD` and `BOS` are left out."""
        said = takewhile(EOS.__ne__, map(int, ids))
        return " ".join(self.words[i] for i in said if i not in (PAD, BOS))
