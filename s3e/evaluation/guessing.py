"""What frames node accuracy: a tree that sees nothing and names what is most often there, and one person's caption."""

import numpy as np
import pandas as pd

from s3e.captions.parser import IGNORE
from s3e.data.corpus import Corpus, Split, consensus
from s3e.evaluation.collect import NODE_MEASURES
from s3e.evaluation.scoring import node_counts, node_row
from s3e.evaluation.statistics import proportion_interval

GUESS, PERSON = "most frequent label", "one reference caption"  # in the column `variant`


def guessed(corpus: Corpus) -> pd.DataFrame:
    """Rows for `collect.node_accuracy`: each node names the label that training captions have there most often.

    Empty slots are never guessed, so their recall has no row; `input` is "none", `seeds` 0. No rows without captions.
    """
    seen = corpus.train.trees.flatten(0, 1).numpy()
    named = [
        column[column > 0] for column in seen.T
    ]  # 0 is an empty slot, below are labels out of vocabulary
    most = [np.bincount(column).argmax() if len(column) else IGNORE for column in named]
    rows = []
    for split in (corpus.val, corpus.test) if corpus.captioned else ():
        targets = split.targets.numpy()
        counts = node_counts(np.broadcast_to(most, targets.shape), targets)
        rows += [row for row in _rows(counts, split, GUESS) if row["measure"] != "null_recall"]
    return pd.DataFrame(rows)


def said(corpus: Corpus) -> pd.DataFrame:
    """The same for the first caption of each photo, scored against the tree of the others: what people agree on."""
    rows = []
    for split in (corpus.val, corpus.test) if corpus.captioned else ():
        rows += _rows(node_counts(split.trees[:, 0].numpy(), others(corpus, split)), split, PERSON)
    return pd.DataFrame(rows)


def others(corpus: Corpus, split: Split) -> np.ndarray:
    """Node classes N x 7 that the first caption is scored against: the scene's, or the consensus of the other captions.

    A photo with one caption has no others: all its nodes are ignored.
    """
    if corpus.categories:
        return split.targets.numpy()
    return np.array([corpus.labels.encode(consensus(parses[1:])) for parses in split.parses])


def _rows(counts: pd.DataFrame, split: Split, variant: str) -> list[dict[str, object]]:
    names = {
        "split": split.name,
        "input": "none",
        "when": "before",
        "variant": variant,
        "system": "frame",
    }
    shares = node_row(counts)
    return [
        {
            **names,
            "measure": measure,
            **proportion_interval([shares[measure]], len(split))._asdict(),
            "seeds": 0,
        }
        | {"n": len(split)}
        for measure in NODE_MEASURES
    ]
