"""`python -m s3e weights export STORE`: the networks of a finished store of runs as a folder that can be passed on.

Files of weights are copied unchanged, so their hashes are those of the runs; the card (README.md) is written from the
runs' own scores and from photographs that are restored on the spot.
"""

import hashlib
import shutil
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from s3e.blur import blur_batch
from s3e.config import Config
from s3e.data.photos import PHOTOS, photograph
from s3e.evaluation.images import PROTOCOL, psnr
from s3e.inference import bundle
from s3e.inference.restorer import Restorer
from s3e.utils import S3EError, atomic_write, write_json

SIZE = 256  # of the photographs that the card tells of
NAMES = {"full": "S3E-Deblur"}


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of `python -m s3e weights export`."""
    parser.add_argument("store", type=Path, help="a finished store of runs, e.g. runs/study")
    parser.add_argument(
        "--to", type=Path, required=True, metavar="FOLDER", help="a new or empty folder"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace weights that were exported there before"
    )


def execute(arguments: Namespace) -> int:
    """Export the store's first seed and say where to."""
    export(arguments.store, arguments.to, arguments.overwrite)
    print(
        f"{arguments.to} is ready: {sum(p.stat().st_size for p in arguments.to.iterdir()) / 1e6:.1f} MB"
    )
    return 0


def export(store: Path, folder: Path, overwrite: bool = False) -> None:
    """Write weights, `bundle.json`, `prototypes.npz` and the card of a store's first seed into `folder`.

    Raises `S3EError` if the store is not finished, lacks the baseline or was exported itself, and if `folder` holds
    anything but exported weights that may be replaced (`overwrite`); nothing is written then.
    """
    source = bundle.find(store)
    if not source.corpus:
        raise S3EError(f"{store} was exported itself: copy the folder as it is.")
    if "baseline-generator" not in source.files:
        raise S3EError(
            f"{store}: the baseline is not finished; go on with `python run_all.py`, then export again."
        )
    _check_target(folder, overwrite)
    if source.config.data.source == "scenes":
        source = replace(source, about=_scenes(source.config, folder))
    record, restorer = _record(source), Restorer(source)
    means = bundle.prototypes(source, restorer.semantics("full"))
    text = card(source, record, _scores(source), _nodes(source), _photographs(restorer))
    folder.mkdir(parents=True, exist_ok=True)
    for name in bundle.SOURCES.keys() - source.files.keys():
        (folder / f"{name}.safetensors").unlink(
            missing_ok=True
        )  # of the weights that were there before
    for name, path in source.files.items():
        with atomic_write(folder / f"{name}.safetensors") as temporary:
            shutil.copyfile(path, temporary)
    with atomic_write(folder / bundle.PROTOTYPES) as temporary:
        np.savez_compressed(temporary, means=means)
    write_json(folder / bundle.RECORD, record)
    with atomic_write(folder / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8")


def _check_target(folder: Path, overwrite: bool) -> None:
    """Raise `S3EError` unless `folder` is new, empty, or exported weights that may be replaced."""
    if folder.exists() and not folder.is_dir():
        raise S3EError(f"--to {folder} is a file: name a folder.")
    exported = (folder / bundle.RECORD).is_file()
    if folder.is_dir() and any(folder.iterdir()) and not (exported and overwrite):
        remedy = "add --overwrite to replace them" if exported else "name a new or empty folder"
        raise S3EError(
            f"--to {folder} holds {'weights' if exported else 'other files'} already: {remedy}."
        )


def _scenes(config: Config, folder: Path) -> str:
    """What weights from scenes are good for."""
    kind = "Demonstration weights" if folder.resolve() == bundle.DEMONSTRATION else "Weights"
    return (
        f"{kind}, trained on {bundle.trained_on(config)}: they show how the method works and are of no use on "
        "photographs."
    )


def _record(source: bundle.Bundle) -> dict:
    hashes = {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in source.files.items()
    }
    return {
        "about": source.about,
        "config": source.config.model_dump(mode="json"),
        "words": source.words.to_dict(),
        "labels": source.labels.to_dict(),
        "longest": source.longest,
        "origin": {
            name: {**about, "sha256": hashes[name]} for name, about in source.origin.items()
        },
    }


def card(
    source: bundle.Bundle,
    record: dict,
    scores: pd.DataFrame,
    nodes: pd.DataFrame,
    photographs: pd.DataFrame,
) -> str:
    """What the weights are, where they come from, what they can and cannot do, in Markdown.

    `record`: that of `bundle.json`. Tables: scores and nodes (may be empty) of the runs, PSNR of photographs.
    """
    config = source.config
    runs = [
        {
            "file": f"{name}.safetensors",
            "run": o["run"],
            "commit": o["commit"][:10],
            "SHA-256": o["sha256"][:16],
        }
        for name, o in sorted(record["origin"].items())
    ]
    seen = (
        "Built-in scenes"
        if config.data.source == "scenes"
        else f"Photos of {Path(config.data.source).name}"
    )
    lead = "Nodes of the tree that are named rightly, on the same photos (the share of slots that hold something):"
    parts = [
        f"# Weights of the profile {config.profile}, seed {config.seed}",
        source.about,
        "Written by `python -m s3e weights export`; no number is typed. Licence: that of the project (MIT).",
        _table(pd.DataFrame(runs)),
        f"## What they can do\n\n{seen} of {config.data.size} px that no training saw, one seed (for several seeds and "
        "intervals see the study's own tables):",
        _table(scores.rename(columns=NAMES)),
        *([lead, _table(nodes)] if len(nodes) else []),
        f"The deblurrers were trained on {config.blur.severity} blur alone. Tree and caption know "
        f"{len(source.labels.entities) - 1} entities and {len(source.labels.relations) - 1} relations, and name one of "
        "them whatever a picture shows.",
        f"## On photographs\n\nscikit-image's photographs at {SIZE} px, severely blurred, PSNR in dB; "
        f"{_nearer(photographs)} of {len(photographs)} come out nearer to the sharp photograph than they went in:",
        _table(
            photographs.rename(columns=NAMES).map(
                lambda value: f"{value:.2f}" if isinstance(value, float) else value
            )
        ),
        PROTOCOL,
    ]
    return "\n\n".join(parts) + "\n"


def _scores(source: bundle.Bundle) -> pd.DataFrame:
    """PSNR and SSIM on test photos by severity: blurred, baseline, S3E-Deblur."""
    tables = {
        arm: pd.read_csv(source.files[f"{arm}-generator"].parent / "scores.csv")
        for arm in ("baseline", "full")
    }
    means = {
        arm: t.query("split == 'test'").groupby("severity", sort=False).mean(True)
        for arm, t in tables.items()
    }
    rows = []
    for severity, blurred in means["full"].iterrows():
        found = {"blurred": (blurred.psnr_blurred, blurred.ssim_blurred)}
        found |= {
            name: tuple(means[name].loc[severity, ["psnr", "ssim"]])
            for name in ("baseline", "full")
        }
        rows.append(
            {"blur": severity} | {name: f"{p:.2f} dB, {s:.3f}" for name, (p, s) in found.items()}
        )
    return pd.DataFrame(rows)


def _nodes(source: bundle.Bundle) -> pd.DataFrame:
    """Accuracies of leaves, relations and roots on test photos, for readers that were tried on them."""
    rows = []
    paths = {name: source.files.get(f"{name}-semantics") for name in ("full", "captioner")}
    tables = {name: path.with_name("nodes.csv") for name, path in paths.items() if path}
    for name, path in tables.items():
        if (
            path.is_file() and source.folder in path.parents
        ):  # what was lent was tried on other photos
            for row in pd.read_csv(path).query("split == 'test'").itertuples():
                shares = {
                    k: f"{getattr(row, f'{k}_accuracy'):.1%}" for k in ("leaf", "relation", "root")
                }
                rows.append({"reader": name, "photo": row.input, **shares})
    return pd.DataFrame(rows)


def _photographs(restorer: Restorer) -> pd.DataFrame:
    """PSNR of photographs before and after."""
    rows = []
    for name in PHOTOS:
        sharp = np.rint(255 * photograph(name, SIZE)).astype(np.uint8)
        blurred = blur_batch(sharp[None], [name], "severe")[0][0]
        restored = {arm: restorer.restore(blurred, arm) for arm in restorer.arms}
        scores = {"blurred": psnr(blurred, sharp)} | {
            arm: psnr(image, sharp) for arm, image in restored.items()
        }
        rows.append({"photograph": name, **scores})
    return pd.DataFrame(rows)


def _nearer(photographs: pd.DataFrame) -> int:
    return int((photographs["full"] > photographs["blurred"]).sum())


def _table(frame: pd.DataFrame) -> str:
    return frame.to_markdown(index=False, disable_numparse=True)
