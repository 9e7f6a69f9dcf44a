"""The floor of node accuracy: what a tree scores that sees nothing and names what is most often there."""

import numpy as np
import pandas as pd

from s3e.data.corpus import Corpus
from s3e.evaluation.collect import NODE_MEASURES
from s3e.evaluation.scoring import node_counts, node_row
from s3e.evaluation.statistics import proportion_interval
from s3e.parsing import IGNORE

GUESS = "most frequent label"  # in the column `variant`


def guessed(corpus: Corpus) -> pd.DataFrame:
    """Rows for `collect.node_accuracy`: each node names the label that training captions have there most often.

    Empty slots are never guessed, so their recall has no row; `input` is "none", `seeds` 0. No rows without captions.
    """
    seen = corpus.train.trees.flatten(0, 1).numpy()
    named = [column[column > 0] for column in seen.T]  # 0 is an empty slot, below are labels out of vocabulary
    most = [np.bincount(column).argmax() if len(column) else IGNORE for column in named]
    rows = []
    for split in (corpus.val, corpus.test) if corpus.captioned else ():
        targets = split.targets.numpy()
        shares = node_row(node_counts(np.broadcast_to(most, targets.shape), targets))
        names = {"split": split.name, "input": "none", "when": "before", "variant": GUESS, "system": "guess"}
        for measure in (name for name in NODE_MEASURES if name != "null_recall"):
            ends = proportion_interval([shares[measure]], len(split))._asdict()
            rows.append({**names, "measure": measure, **ends, "seeds": 0, "n": len(split)})
    return pd.DataFrame(rows)
