"""Captions to trees and numbers: parses, the vocabularies of a corpus, captions as word ids, trees as node classes."""

from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from s3e.config import Config
from s3e.data.text import SPECIAL, Vocabulary
from s3e.parsing import IGNORE, NULL, Backend, CaptionTree, TreeVocabulary, parse_caption
from s3e.utils import S3EError, read_json, write_json

Nodes = list[str] | None  # seven labels in node order; None where a caption names nothing


def parse_all(captions: list[list[str]], backend: Backend) -> list[list[Nodes]]:
    """The tree labels of every caption of every photo. Raises `S3EError` if spaCy is asked for and not there."""
    trees = [[parse_caption(text, backend) for text in texts] for texts in captions]
    return [[tree and list(tree.nodes) for tree in row] for row in trees]


def tree_of(nodes: Nodes) -> CaptionTree | None:
    """The tree of seven labels."""
    return None if nodes is None else CaptionTree(tuple(nodes[:4]), tuple(nodes[4:]))


def write_vocabulary(config: Config, record: dict, folder: Path) -> None:
    """Write `vocabulary.json`: words and tree labels of the training `record`. Raises `S3EError` if there are none."""
    flat = [text for texts in record["captions"] for text in texts]
    trees = [tree_of(nodes) for row in record["parses"] for nodes in row if nodes]
    if not trees:
        raise S3EError(
            "no training caption names anything that can be seen: are the captions English sentences?"
        )
    text = config.text
    words = Vocabulary.build(flat, min_count=text.min_count)
    labels = TreeVocabulary.build(
        trees,
        max_entities=text.entities,
        max_relations=text.relations,
        min_count=text.label_min_count,
    )
    content = {"words": words.to_dict(), "labels": labels.to_dict(), "max_words": text.max_words}
    write_json(folder / "vocabulary.json", content)


def read_vocabulary(folder: Path | str | None) -> tuple[Vocabulary, TreeVocabulary, int]:
    """Words, tree labels and the number of words kept of a caption; empty ones for None."""
    if folder is None:
        return Vocabulary(SPECIAL), TreeVocabulary([NULL], [NULL]), 1
    content = read_json(Path(folder) / "vocabulary.json")
    words, labels = (
        Vocabulary.from_dict(content["words"]),
        TreeVocabulary.from_dict(content["labels"]),
    )
    return words, labels, content["max_words"]


def encode(
    record: dict, words: Vocabulary, labels: TreeVocabulary, max_words: int
) -> dict[str, Tensor]:
    """Captions as word ids and trees as node classes: {"words": N x C x T, "trees": N x C x 7, "targets": N x 7}.

    `record`: `ids`, `captions`, their `parses`, true `trees` or None. Without captions: zeros, `IGNORE`, C = T = 1.
    """
    most = max(len(texts) for texts in record["captions"])
    if most == 0:
        trees = torch.full((len(record["ids"]), 1, 7), IGNORE)
        return {"words": torch.zeros_like(trees[..., :1]), "trees": trees, "targets": trees[:, 0]}
    captions, parses = (_repeat(record[name], most) for name in ("captions", "parses"))
    encoded = [[words.encode(text, max_words) for text in texts] for texts in captions]
    longest = max(len(ids) for row in encoded for ids in row)
    padded = [[ids + [0] * (longest - len(ids)) for ids in row] for row in encoded]
    parsed = [[tree_of(nodes) for nodes in row] for row in parses]
    trees = [[labels.encode(tree) for tree in row] for row in parsed]
    true = record["trees"]
    targets = [
        labels.encode(tree_of(true[i]) if true else consensus(row)) for i, row in enumerate(parsed)
    ]
    return {
        "words": torch.tensor(padded),
        "trees": torch.tensor(trees),
        "targets": torch.tensor(targets),
    }


def _repeat(rows: list[list], count: int) -> list[list]:
    """Rows of `count` items each: photos with fewer captions repeat them."""
    return [[row[i % len(row)] for i in range(count)] for row in rows]


def consensus(trees: list[CaptionTree | None]) -> CaptionTree | None:
    """The most frequent label of each node over the trees of one photo's captions (ties: the earlier caption)."""
    known = [tree.nodes for tree in trees if tree is not None]
    if not known:
        return None
    nodes = [Counter(column).most_common(1)[0][0] for column in zip(*known, strict=True)]
    return tree_of(nodes)
