"""What notebook 01 leaves for the figures and for the caption metrics: references, severities, sample photos."""

from pathlib import Path

import numpy as np
import pandas as pd

from s3e.blur import SEVERITIES, kernel_for
from s3e.config import Config
from s3e.data.corpus import Corpus
from s3e.evaluation.image import score_batch
from s3e.parsing import NULL, parse_caption
from s3e.paths import atomic_write, write_json


def severity_table(corpus: Corpus) -> pd.DataFrame:
    """One row a photo of val and test and a severity: kernel extent in pixels, PSNR of the blurred photo in dB."""
    parts = []
    for split in (corpus.val, corpus.test):
        for severity in SEVERITIES:
            psnr = score_batch(split.blurred[severity], split.sharp)["psnr"]
            columns = {"id": split.ids, "extent": split.extents[severity], "psnr_blurred": psnr}
            parts.append(pd.DataFrame({"split": split.name, "severity": severity, **columns}))
    return pd.concat(parts, ignore_index=True)


def label_coverage(corpus: Corpus) -> pd.DataFrame:
    """Per split: captions, share with a tree, and the share of entity and relation nodes inside the vocabulary."""
    rows = []
    for split in corpus.splits.values():
        texts = [text for row in split.captions for text in row]
        trees = [tree for text in texts if (tree := parse_caption(text))]
        rows.append({"captions": len(texts), "with a tree": len(trees) / len(texts), **corpus.labels.coverage(trees)})
    return pd.DataFrame(rows, index=pd.Index(list(corpus.splits), name="split"))


def write_summary(corpus: Corpus, config: Config, folder: Path) -> dict[str, float]:
    """Write `references.json`, `severity.csv`, `samples.npz` and `samples.json`; returns numbers for `metrics.json`."""
    references = {split.name: dict(zip(split.ids, split.captions, strict=True)) for split in (corpus.val, corpus.test)}
    write_json(folder / "references.json", references)
    table = severity_table(corpus)
    with atomic_write(folder / "severity.csv") as temporary:
        table.to_csv(temporary, index=False)
    _write_samples(corpus, config, folder)
    means = table.query("split == 'val'").groupby("severity")["psnr_blurred"].mean()
    sizes = {f"{name}_photos": len(split) for name, split in corpus.splits.items()}
    vocabulary = {"words": len(corpus.words), "entities": len(corpus.labels.entities) - 1}
    vocabulary["relations"] = len(corpus.labels.relations) - 1
    return {**sizes, **vocabulary, **{f"val_{name}_psnr_blurred": float(value) for name, value in means.items()}}


def _write_samples(corpus: Corpus, config: Config, folder: Path) -> None:
    split, count = corpus.val, min(config.evaluation.samples, len(corpus.val))
    arrays = {"ids": np.array(split.ids[:count]), "sharp": np.asarray(split.sharp[:count])}
    for severity in SEVERITIES:
        arrays[severity] = np.asarray(split.blurred[severity][:count])
        kernels = [kernel_for(photo, severity, config.data.size, config.blur.seed) for photo in split.ids[:count]]
        arrays[f"kernel_{severity}"] = np.stack(pad_kernels(kernels))
    records = []
    for i in range(count):
        trees = [parse_caption(text) for text in split.captions[i]]
        nodes = [list(tree.nodes) if tree else [NULL] * 7 for tree in trees]
        records.append({"id": split.ids[i], "captions": split.captions[i], "trees": nodes})
    with atomic_write(folder / "samples.npz") as temporary:
        np.savez_compressed(temporary, **arrays)
    write_json(folder / "samples.json", records)


def pad_kernels(kernels: list[np.ndarray]) -> list[np.ndarray]:
    """Zero-pad centred kernels of odd sides to one common odd side."""
    side = max(max(kernel.shape) for kernel in kernels)
    return [np.pad(kernel, [((side - n) // 2, (side - n) // 2) for n in kernel.shape]) for kernel in kernels]
