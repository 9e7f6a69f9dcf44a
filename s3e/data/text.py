"""Captions to word ids and back: one tokeniser, one vocabulary for every decoder (specification 4.1, 6.4)."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

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
