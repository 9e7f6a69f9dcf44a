"""What notebook 01 leaves for the figures and for the caption metrics: references, severities, sample photos."""

from pathlib import Path

import numpy as np
import pandas as pd

from s3e.blur import SEVERITIES, kernel_for
from s3e.config import Config
from s3e.data.corpus import Corpus
from s3e.trees import NULL
from s3e.utils import atomic_write, write_json


def severity_table(corpus: Corpus) -> pd.DataFrame:
    """One row a photo of val and test and a severity: kernel extent in pixels (pairs: none), input PSNR in dB."""
    parts = []
    for split in (corpus.val, corpus.test):
        for severity in corpus.severities:
            columns = {
                "id": split.ids,
                "extent": split.extents[severity],
                "psnr_blurred": split.psnr[severity],
            }
            rows = split.rows(severity)
            parts.append(
                pd.DataFrame({"split": split.name, "severity": severity, **columns}).iloc[rows]
            )
    return pd.concat(parts, ignore_index=True)


def label_coverage(corpus: Corpus) -> pd.DataFrame:
    """Per split: captions, share with a tree, share of entity and relation nodes in the vocabulary (captioned data)."""
    rows = []
    for split in corpus.splits.values():
        parses = [tree for row in split.parses for tree in row]
        trees = [tree for tree in parses if tree]
        share = len(trees) / max(len(parses), 1)
        rows.append(
            {"captions": len(parses), "with a tree": share, **corpus.labels.coverage(trees)}
        )
    return pd.DataFrame(rows, index=pd.Index(list(corpus.splits), name="split"))


def write_summary(corpus: Corpus, config: Config, folder: Path) -> dict[str, float]:
    """Write `references.json`, `severity.csv`, `samples.npz` and `samples.json`; returns numbers for `metrics.json`."""
    references = {
        split.name: dict(zip(split.ids, split.captions, strict=True))
        for split in (corpus.val, corpus.test)
    }
    write_json(folder / "references.json", references if corpus.captioned else {})
    table = severity_table(corpus)
    with atomic_write(folder / "severity.csv") as temporary:
        table.to_csv(temporary, index=False)
    _write_samples(corpus, config, folder)
    means = table.query("split == 'val'").groupby("severity")["psnr_blurred"].mean()
    metrics = {f"{name}_photos": len(split) for name, split in corpus.splits.items()}
    if corpus.captioned:
        metrics |= {"words": len(corpus.words), "entities": len(corpus.labels.entities) - 1}
        metrics["relations"] = len(corpus.labels.relations) - 1
    return metrics | {f"val_{name}_psnr_blurred": float(value) for name, value in means.items()}


def _write_samples(corpus: Corpus, config: Config, folder: Path) -> None:
    """The first validation photos that come in every severity, with their kernels where they are known."""
    split = corpus.val
    rows = split.spread(split.rows(*corpus.severities))[: config.evaluation.samples]
    ids = [split.ids[i] for i in rows]
    arrays = {"ids": np.array(ids), "sharp": split.sharp[rows]}
    for severity in corpus.severities:
        arrays[severity] = split.blurred[severity][rows]
        if severity in synthetic(corpus) and config.blur.motion == "camera":
            kernels = [
                kernel_for(photo, severity, config.data.size, config.blur.seed) for photo in ids
            ]
            arrays[f"kernel_{severity}"] = np.stack(pad_kernels(kernels))
    records = []
    for i in rows:
        nodes = [list(tree.nodes) if tree else [NULL] * 7 for tree in split.parses[i]]
        records.append({"id": split.ids[i], "captions": split.captions[i], "trees": nodes})
    with atomic_write(folder / "samples.npz") as temporary:
        np.savez_compressed(temporary, **arrays)
    write_json(folder / "samples.json", records)


def synthetic(corpus: Corpus) -> tuple[str, ...]:
    """The severities of a corpus that were made with kernels; none of pairs."""
    return (
        ()
        if "released" in corpus.severities
        else tuple(name for name in corpus.severities if name in SEVERITIES)
    )


def pad_kernels(kernels: list[np.ndarray]) -> list[np.ndarray]:
    """Zero-pad centred kernels of odd sides to one common odd side."""
    side = max(max(kernel.shape) for kernel in kernels)
    return [
        np.pad(kernel, [((side - n) // 2, (side - n) // 2) for n in kernel.shape])
        for kernel in kernels
    ]
