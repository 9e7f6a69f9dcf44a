"""Where a set of trained networks comes from: a folder that was exported, or a finished store of runs.

An exported folder holds `bundle.json` (settings, words, labels, origin), the runs' own files of weights, unchanged, and
`prototypes.npz` (what each entity looks like in each leaf, see `leaf_prototypes`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from s3e.captions.tree import TreeVocabulary, Vocabulary
from s3e.config import Config
from s3e.data.corpus import Split, load_corpus
from s3e.models.semantics import TreeSemantics
from s3e.models.tree import LEAVES, predicted_nodes
from s3e.utils import RUNS, S3EError, read_json

DEMONSTRATION = Path(__file__).parents[1] / "weights"
RECORD, PROTOTYPES = "bundle.json", "prototypes.npz"
FULL = "05_co_training/full-s"
SOURCES = {  # network -> its file in the run of full, baseline or captioner
    "full-generator": "generator",
    "full-semantics": "semantics",
    "baseline-generator": "generator",
    "captioner-semantics": "tree_captioner",
}
NEEDED = ("full-generator", "full-semantics")
SEEN = 1000  # training photos that prototypes are taken from


@dataclass(frozen=True)
class Bundle:
    """Networks on disk and what is needed to build and use them.

    `files`: network -> file of weights (`SOURCES`; the last two may be missing). `longest`: words of the longest
    caption that is said, signs included. `about`: what the weights are good for. `origin`: run of each network.
    `corpus`: of a store, the folder of photos with the captions that tree and words come from.
    """

    folder: Path
    config: Config
    words: Vocabulary
    labels: TreeVocabulary
    longest: int
    files: dict[str, Path]
    about: str
    origin: dict[str, dict[str, Any]]
    corpus: Path | None = None

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
    path = folder / RECORD
    record = read_json(path)
    try:
        words, labels = (
            Vocabulary.from_dict(record["words"]),
            TreeVocabulary.from_dict(record["labels"]),
        )
        config, names = Config.model_validate(record["config"]), set(NEEDED) | set(record["origin"])
        about = (
            record["longest"],
            {name: folder / f"{name}.safetensors" for name in sorted(names)},
            record["about"],
        )
        source = Bundle(folder, config, words, labels, *about, record["origin"])
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise S3EError(
            f"{path} is damaged or of another version ({why}): restore the folder, or export it again."
        ) from None
    missing = [file for file in source.files.values() if not file.is_file()]
    if missing:
        raise S3EError(f"{missing[0]} is missing: restore the folder, or export it again.")
    return source


def _store(folder: Path) -> Bundle:
    runs = {
        int(done.parent.name.removeprefix("full-s")): done.parent
        for done in folder.glob(f"{FULL}*/done.json")
    }
    if not runs:
        raise S3EError(
            f"{folder}: the co-training is not finished; go on with `python run_all.py`, then try again."
        )
    seed, full = min(runs.items())
    settings = read_json(full / "params.json")
    config, corpus_folder = (
        Config.model_validate(settings["config"]),
        _read_by(full, "01_data_blurring/all"),
    )
    if not corpus_folder:
        raise S3EError(
            f"{full}: the photos and words that it was trained with are gone; run it again."
        )
    captioner = _read_by(full, f"03_train_captioner/s{seed}")
    found = {
        "full": full,
        "baseline": folder / f"06_ablation/baseline-s{seed}",
        "captioner": captioner,
    }
    files = {name: found[name.partition("-")[0]] for name in SOURCES}
    files = {name: run / f"{SOURCES[name]}.safetensors" for name, run in files.items() if run}
    files = {
        name: path
        for name, path in files.items()
        if path.is_file() and (path.parent / "done.json").is_file()
    }
    if lost := [name for name in NEEDED if name not in files]:
        raise S3EError(
            f"{full}: its {SOURCES[lost[0]]}.safetensors is missing: run that stage again."
        )
    corpus = load_corpus(corpus_folder)
    about = f"Weights of the run {folder.name}, s{seed}, trained on {trained_on(config)}: see its notebooks and tables."
    longest, origin = (
        corpus.train.words.shape[-1],
        {name: _origin(path.parent) for name, path in files.items()},
    )
    return Bundle(
        folder, config, corpus.words, corpus.labels, longest, files, about, origin, corpus_folder
    )


def trained_on(config: Config) -> str:
    """On what the deblurrers were trained, in a few words."""
    source = config.data.source
    what = (
        "the suite's built-in scenes"
        if source == "scenes"
        else f"the photos of {Path(source).name}"
    )
    return f"{what} ({config.data.size} px, {config.blur.severity} blur)"


def _read_by(run: Path, name: str) -> Path | None:
    """The run that `run` read as `name`, known by its key: in its own store or, where that was lent, in another one.

    A store lies beside its lender, or (a store of its own place) the lender is in the usual folder of runs.
    """
    read = read_json(run / "provenance.json")["upstream"]
    key = read.get(f"captioned:{name}", read.get(name))
    stores = [
        run.parents[1],
        *sorted(run.parents[2].iterdir()),
        *(sorted(RUNS.iterdir()) if RUNS.is_dir() else []),
    ]
    finished = (store / name for store in stores if (store / name / "done.json").is_file())
    return next((there for there in finished if read_json(there / "done.json")["key"] == key), None)


def _origin(run: Path) -> dict[str, Any]:
    """Which run made a network, with which code."""
    done, made = read_json(run / "done.json"), read_json(run / "provenance.json")
    return {"run": "/".join(run.parts[-3:]), "key": done["key"], "commit": made["commit"]}


def prototypes(bundle: Bundle, semantics: TreeSemantics) -> np.ndarray:
    """`leaf_prototypes` of a bundle: stored with an exported one, computed from the corpus of a store."""
    if bundle.corpus:
        entities, batch = len(bundle.labels.entities), bundle.config.evaluation.batch
        return leaf_prototypes(semantics, load_corpus(bundle.corpus).train, entities, batch)
    path = bundle.folder / PROTOTYPES
    try:
        return np.load(path)["means"]
    except (OSError, ValueError, KeyError, BadZipFile):
        raise S3EError(
            f"{path} is missing or damaged: restore the folder, or export it again."
        ) from None


@torch.no_grad()
def leaf_prototypes(
    semantics: TreeSemantics, split: Split, entities: int, batch: int
) -> np.ndarray:
    """Mean node vector of each entity in each leaf, over blurred training photos: float32 4 x E x D.

    Only leaves whose label was read rightly count. An entity that is never read rightly in a leaf has the mean over all
    leaves; one that is read rightly nowhere, that of all leaves that should have shown it; NaN where no photo does.
    """
    [severity], device = split.blurred, next(semantics.parameters()).device
    sums = np.zeros((2, LEAVES, entities, semantics.tree.width))
    counts = np.zeros((2, LEAVES, entities, 1))
    for rows in split.chunks(batch, severity, SEEN):
        tree = semantics.eval()(split.batch(rows, severity).blurred.to(device)).tree
        read = predicted_nodes(tree).cpu().numpy()[:, :LEAVES]
        true = split.targets[torch.as_tensor(rows)].numpy()[:, :LEAVES]
        vectors = tree.vectors.double().cpu().numpy()
        for kind, chosen in enumerate((read == true, true >= 0)):  # read rightly; named at all
            photos, leaves = np.nonzero(chosen)
            np.add.at(sums[kind], (leaves, true[photos, leaves]), vectors[photos, leaves])
            np.add.at(counts[kind], (leaves, true[photos, leaves]), 1)
    with np.errstate(invalid="ignore"):
        own, (right, shown) = sums[0] / counts[0], sums.sum(1) / counts.sum(1)
    return np.where(counts[0] > 0, own, np.where(counts[0].sum(0) > 0, right, shown)).astype(
        np.float32
    )
