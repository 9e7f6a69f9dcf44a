"""Semantic fidelity: what captioners say of restored photos (specification 6.9, table 3)."""

from pathlib import Path

import numpy as np
import pandas as pd

from s3e.config import Config
from s3e.data.corpus import Corpus
from s3e.evaluation.runs import describe
from s3e.evaluation.scoring import read_split
from s3e.models.build import build_semantics, load_weights

DEBLURRED_BY = ("baseline", "full", "oracle_map")


def caption_deblurred(captioners: list[Path], arms: list[Path], corpus: Corpus, config: Config) -> pd.DataFrame:
    """ "Deblur first, then caption": what the tree captioner of notebook 03 (same seed) says of restored test photos.

    `captioners`, `arms`: folders of finished runs of 03 and of 05 and 06. Columns as `collect.read_captions`.
    """
    rows = []
    weights = {describe(path).seed: path / "tree_captioner.safetensors" for path in captioners}
    for arm in map(describe, arms):
        if arm.variant in DEBLURRED_BY and arm.seed in weights:
            source = load_weights(build_semantics(config, corpus, "tree"), weights[arm.seed])
            restored = np.load(arm.path / "restored_test.npy")
            said = read_split(source, corpus.test, "sharp", corpus, config, caption=True, images=restored)["captions"]
            about = {"system": f"{arm.variant} -> tree", "input": "deblurred", "split": "test", "seed": arm.seed}
            rows.append({**about, "captions": said})
    return pd.DataFrame(rows, columns=["system", "input", "split", "seed", "captions"])
