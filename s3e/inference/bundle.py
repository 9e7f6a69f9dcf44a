"""Where a set of trained networks comes from: a folder that was exported, or a finished store of runs.

An exported folder holds `bundle.json` (settings, words, labels, origin), the runs' own files of weights, unchanged, and
`prototypes.npz` (what each entity looks like in each leaf, see `leaf_prototypes`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s3e.config import Config
from s3e.data.corpus import Split, load_corpus
from s3e.data.text import Vocabulary
from s3e.evaluation.restoring import predicted_nodes
from s3e.models.semantics import TreeSemantics
from s3e.models.tree import LEAVES
from s3e.paths import S3EError, read_json
from s3e.pipeline import graph
from s3e.pipeline.lending import open_study
from s3e.trees import TreeVocabulary

DEMONSTRATION = Path(__file__).parents[1] / "weights"
RECORD, PROTOTYPES = "bundle.json", "prototypes.npz"
SOURCES = {  # a network's file of weights -> the stage that made it, the variant in its folder's name, the file there
    "full-generator": ("05_co_training", "full-", "generator"),
    "full-semantics": ("05_co_training", "full-", "semantics"),
    "baseline-generator": ("06_ablation", "baseline-", "generator"),
    "captioner-semantics": ("03_train_captioner", "", "tree_captioner"),
}
NEEDED = ("full-generator", "full-semantics")
SEEN = 1000  # training photos that prototypes are taken from


@dataclass(frozen=True)
class Bundle:
    """Networks on disk and what is needed to build and use them.

    `files`: network -> file of weights (`SOURCES`; the last two may be missing). `longest`: words of the longest
    caption that is said, signs included. `about`: what the weights are good for. `origin`: run of each network.
    """

    folder: Path
    config: Config
    words: Vocabulary
    labels: TreeVocabulary
    longest: int
    files: dict[str, Path]
    about: str
    origin: dict[str, dict[str, Any]]

    @property
    def categories(self) -> list[str]:
        """None: no network of a bundle reads true label maps."""
        return []


def find(folder: Path | str | None = None) -> Bundle:
    """The bundle in `folder`: exported, or a store of runs ("runs/laptop"); the demonstration weights for None.

    Raises `S3EError` where there is neither, or where a network that is needed is missing.
    """
    folder = DEMONSTRATION if folder is None else Path(folder).expanduser().resolve()
    if (folder / RECORD).is_file():
        return _exported(folder)
    if (folder / "05_co_training").is_dir():
        return _store(folder)
    raise S3EError(
        f"{folder}: no weights there; give a finished store of runs such as runs/laptop (made by: python run_all.py), "
        "or a folder made by `python -m s3e weights export`."
    )


def _exported(folder: Path) -> Bundle:
    record = read_json(folder / RECORD)
    words, labels = Vocabulary.from_dict(record["words"]), TreeVocabulary.from_dict(record["labels"])
    files = {name: folder / f"{name}.safetensors" for name in record["origin"]}
    missing = [path for path in files.values() if not path.is_file()]
    if missing:
        raise S3EError(f"{missing[0]} is missing: restore the folder, or export it again.")
    config = Config.model_validate(record["config"])
    return Bundle(folder, config, words, labels, record["longest"], files, record["about"], record["origin"])


def _store(folder: Path) -> Bundle:
    runs = sorted((folder / "05_co_training").glob("full-s*/done.json"))
    if not runs:
        raise S3EError(f"{folder}: the co-training is not finished; go on with `python run_all.py`, then try again.")
    seed = runs[0].parent.name.removeprefix("full-")
    found = {name: folder / stage / f"{variant}{seed}" for name, (stage, variant, _) in SOURCES.items()}
    files = {name: run / f"{SOURCES[name][2]}.safetensors" for name, run in found.items()}
    files = {name: path for name, path in files.items() if path.is_file() and (path.parent / "done.json").is_file()}
    if lost := [name for name in NEEDED if name not in files]:
        raise S3EError(f"{found[lost[0]]}: its {SOURCES[lost[0]][2]}.safetensors is missing: run that stage again.")
    settings = read_json(runs[0].parent / "params.json")
    config = Config.model_validate(settings["config"])
    corpus = load_corpus(folder / "01_data_blurring" / "all", _lender(folder, config, settings["overrides"]))
    about = f"Weights of the run {folder.name}, {seed}, trained at {config.data.size} px: see its notebooks and tables."
    longest, origin = corpus.train.words.shape[-1], {name: _origin(path.parent) for name, path in files.items()}
    return Bundle(folder, config, corpus.words, corpus.labels, longest, files, about, origin)


def _lender(folder: Path, config: Config, overrides: dict[str, Any]) -> Path | None:
    """The corpus whose words a study without captions uses."""
    if read_json(folder / "01_data_blurring" / "all" / "corpus.json")["captioned"]:
        return None
    _, store = open_study(config, overrides, graph.select(config))
    return store.others["captioned"].root / "01_data_blurring" / "all"


def _origin(run: Path) -> dict[str, Any]:
    """Which run made a network, with which code."""
    done, made = read_json(run / "done.json"), read_json(run / "provenance.json")
    return {"run": "/".join(run.parts[-3:]), "key": done["key"], "commit": made["commit"]}


def prototypes(bundle: Bundle, semantics: TreeSemantics) -> np.ndarray:
    """`leaf_prototypes` of a bundle: stored with an exported one, computed from the corpus of a store."""
    if (bundle.folder / PROTOTYPES).is_file():
        return np.load(bundle.folder / PROTOTYPES)["means"]
    corpus = load_corpus(bundle.folder / "01_data_blurring" / "all")
    return leaf_prototypes(semantics, corpus.train, bundle.config, len(bundle.labels.entities))


@torch.no_grad()
def leaf_prototypes(semantics: TreeSemantics, split: Split, config: Config, entities: int) -> np.ndarray:
    """Mean node vector of each entity in each leaf, over blurred training photos: float32 4 x E x D.

    Only leaves whose label was read rightly count. An entity that a leaf never shows has the mean over all leaves; NaN
    where no leaf shows it.
    """
    semantics.to(config.runtime.device).eval()
    width = semantics.tree.width
    sums, counts = np.zeros((LEAVES, entities, width)), np.zeros((LEAVES, entities, 1))
    for rows in np.array_split(np.arange(min(SEEN, len(split))), -(-min(SEEN, len(split)) // config.evaluation.batch)):
        tree = semantics(split.batch(rows, config.blur.severity).blurred.to(config.runtime.device)).tree
        read, true = predicted_nodes(tree).cpu().numpy(), split.targets[torch.as_tensor(rows)].numpy()
        vectors = tree.vectors.double().cpu().numpy()
        for leaf in range(LEAVES):
            right = read[:, leaf] == true[:, leaf]
            np.add.at(sums[leaf], true[right, leaf], vectors[right, leaf])
            np.add.at(counts[leaf], true[right, leaf], 1)
    with np.errstate(invalid="ignore"):
        return np.where(counts > 0, sums / counts, sums.sum(0) / counts.sum(0)).astype(np.float32)
