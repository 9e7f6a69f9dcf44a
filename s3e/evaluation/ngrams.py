"""BLEU-1..4, ROUGE-L and CIDEr-D from numbers per image that add up, so that resampling images is one matrix product.

The definitions are those of pycocoevalcap, whose values the tests expect to 1e-9 on the same tokens: BLEU of the whole
set with the closest reference length (ties to the shorter); ROUGE-L with beta 1.2, the best precision and the best
recall of any reference; CIDEr-D with clipped counts and a Gaussian penalty (sigma 6) on the difference in bigrams.
CIDEr weighs an n-gram by the number of documents (images) that know it. `background` freezes those numbers, so that one
image, a part of the images or a resample is measured as the whole set is. Sources: Papineni et al. 2002; Lin 2004;
Vedantam et al. 2015; longest common subsequence by bits: Hyyro 2004.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

NAMES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr")
ORDER = 4  # longest n-gram
BETA, SIGMA = 1.2, 6.0
TINY, SMALL = 1e-15, 1e-9  # keep BLEU defined where nothing matches
Tokens = Sequence[
    Sequence[str]
]  # the references of each image, each of them tokens joined by blanks


@dataclass(frozen=True)
class Statistics:
    """What the metrics need to know of a caption set, one row an image.

    table: float (images, 12): matching 1- to 4-grams, 1- to 4-grams, words, words of the closest reference, ROUGE-L,
    CIDEr-D. CIDEr is NaN where the document frequencies tell no images apart (one image; one text for all of them).
    """

    table: np.ndarray

    @classmethod
    def of(
        cls, references: Tokens, captions: Sequence[str], background: Tokens | None = None
    ) -> "Statistics":
        """Of tokenised references (one or more an image) and captions, images in the same order.

        `background`: the references whose document frequencies CIDEr takes; by default those given.
        """
        matches, cider = _overlaps(
            references, captions, references if background is None else background
        )
        rouge = [_rouge(group, text) for group, text in zip(references, captions, strict=True)]
        return cls(np.column_stack([matches, _lengths(references, captions), rouge, cider]))

    def scores(self) -> dict[str, float]:
        """The metrics of the whole set: fractions, CIDEr in 0..10."""
        return {
            name: float(value[0])
            for name, value in self.resample(np.ones((1, len(self.table)))).items()
        }

    def resample(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """The metrics of resampled sets, each (resamples,); counts (resamples, images): how often an image is drawn."""
        totals = counts @ self.table
        means = totals[:, -2:] / counts.sum(1, keepdims=True)
        return dict(zip(NAMES, [*_bleu(totals), *means.T], strict=True))


def _bleu(totals: np.ndarray) -> np.ndarray:
    """BLEU-1..4, (4, sets), from sums over images (sets, 10 or more)."""
    matching, given, words, wanted = totals[:, :4], totals[:, 4:8], totals[:, 8], totals[:, 9]
    precision = np.cumprod((matching + TINY) / (given + SMALL), axis=1) ** (
        1 / np.arange(1, ORDER + 1)
    )
    ratio = (words + TINY) / (wanted + SMALL)
    return precision.T * np.exp(np.minimum(0.0, 1 - 1 / ratio))


def _lengths(references: Tokens, captions: Sequence[str]) -> np.ndarray:
    """Numbers of 1- to 4-grams, of words, and of words of the reference of closest length: (images, 6)."""
    words = np.array([len(text.split()) for text in captions])
    lengths = ([len(text.split()) for text in group] for group in references)
    closest = [
        min(group, key=lambda n: (abs(n - own), n))
        for group, own in zip(lengths, words, strict=True)
    ]
    return np.column_stack([_gram_counts(words), words, closest])


def _gram_counts(words: np.ndarray) -> np.ndarray:
    """How many 1- to 4-grams texts of so many words have: (texts, 4)."""
    return np.maximum(words[:, None] - np.arange(ORDER), 0)


def _rouge(references: Sequence[str], caption: str) -> float:
    """ROUGE-L of one image; an empty text is one empty word, as in the package."""
    said = caption.split(" ")
    texts = [text.split(" ") for text in references]
    common = [_common(said, words) for words in texts]
    precision, recall = (
        max(common) / len(said),
        max(n / len(words) for n, words in zip(common, texts, strict=True)),
    )
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if precision else 0.0


def _common(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence: the zero bits of one integer that each word of `second` steps."""
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    full = free = (1 << len(first)) - 1
    for word in second:
        hit = free & places.get(word, 0)
        free = ((free + hit) | (free - hit)) & full
    return len(first) - free.bit_count()


class Grams(NamedTuple):
    """The distinct n-grams of each text of a group, sorted by text and n-gram: three arrays (found,)."""

    text: np.ndarray
    gram: np.ndarray
    times: np.ndarray


def _grams(*groups: Sequence[str]) -> Iterator[tuple[int, list[Grams]]]:
    """For n = 1..4: how many n-grams there are in all groups, numbered from 0, and those of each group."""
    words, size = _numbered([text for group in groups for text in group])
    starts = np.cumsum([0, *map(len, groups)])
    grams = words
    for n in range(ORDER):
        if n:
            grams = np.where(words[:, n:] < 0, -1, grams[:, :-1] * size + words[:, n:])
        known = grams >= 0
        found, grams[known] = np.unique(grams[known], return_inverse=True)
        kinds = max(len(found), 1)
        keys, times = np.unique(np.nonzero(known)[0] * kinds + grams[known], return_counts=True)
        ends = np.searchsorted(keys, starts * kinds)
        parts = [(slice(*ends[i : i + 2]), start) for i, start in enumerate(starts[:-1])]
        yield (
            kinds,
            [
                Grams(keys[cut] // kinds - start, keys[cut] % kinds, times[cut])
                for cut, start in parts
            ],
        )


def _numbered(texts: Sequence[str]) -> tuple[np.ndarray, int]:
    """Words as numbers, int64 (texts, longest), -1 after the last; how many different words there are."""
    numbers: dict[str, int] = {}
    rows = [[numbers.setdefault(word, len(numbers)) for word in text.split()] for text in texts]
    words = np.full((len(rows), max(ORDER, *map(len, rows))), -1)
    for place, row in enumerate(rows):
        words[place, : len(row)] = row
    return words, len(numbers)


def _overlaps(
    references: Tokens, captions: Sequence[str], background: Tokens
) -> tuple[np.ndarray, np.ndarray]:
    """Matching 1- to 4-grams (images, 4), each counted as often as the one reference has it; CIDEr-D (images,)."""
    (texts, image), (known, document) = _flat(references), _flat(background)
    matching, similar, telling = [], np.zeros(len(texts)), False
    for kinds, (said, wanted, seen) in _grams(captions, texts, known):
        place, shared = _shared(said, wanted, image, kinds)
        most = np.zeros(len(said.text) + 1, int)
        np.maximum.at(most, place, shared)
        matching.append(np.bincount(said.text, most[:-1], len(captions)))
        documents = np.bincount(
            np.unique(document[seen.text] * kinds + seen.gram) % kinds, minlength=kinds
        )
        idf = np.log(len(background)) - np.log(np.maximum(documents, 1))
        similar += _cosine(said, wanted, shared, idf, image, len(captions))
        telling |= bool(idf[wanted.gram].any())
    bigrams = [
        np.array([max(len(text.split()) - 1, 0) for text in group]) for group in (captions, texts)
    ]
    similar *= np.exp(-((bigrams[0][image] - bigrams[1]) ** 2) / (2 * SIGMA**2))
    cider = 10 / ORDER * np.bincount(image, similar) / np.bincount(image)
    return np.column_stack(matching), cider if telling else np.full(len(captions), np.nan)


def _flat(groups: Tokens) -> tuple[list[str], np.ndarray]:
    """The texts of all images, and which image each is of."""
    return [text for group in groups for text in group], np.repeat(
        np.arange(len(groups)), [*map(len, groups)]
    )


def _shared(
    said: Grams, wanted: Grams, image: np.ndarray, kinds: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each n-gram of a reference: its place among those of the captions (or behind them), and the clipped count."""
    keys = np.append(said.text * kinds + said.gram, -1)
    sought = image[wanted.text] * kinds + wanted.gram
    place = np.searchsorted(keys[:-1], sought)
    return place, np.minimum(np.append(said.times, 0)[place], wanted.times) * (
        keys[place] == sought
    )


def _cosine(
    said: Grams,
    wanted: Grams,
    shared: np.ndarray,
    idf: np.ndarray,
    image: np.ndarray,
    captions: int,
) -> np.ndarray:
    """Clipped cosine of the weighted n-gram counts of each reference (texts,) and its image's caption."""
    product = np.bincount(wanted.text, shared * wanted.times * idf[wanted.gram] ** 2, len(image))
    own = np.bincount(said.text, (said.times * idf[said.gram]) ** 2, captions)[image]
    norms = np.sqrt(
        own * np.bincount(wanted.text, (wanted.times * idf[wanted.gram]) ** 2, len(image))
    )
    return np.divide(product, norms, out=np.zeros(len(image)), where=norms > 0)
