"""Other studies that a study reads: with which settings they are made.

Data without captions borrow tree and captioner of the study of `data.captioned`, with the same profile, seeds and
overrides, except for those that describe the borrowing data. The falsifier is the study itself with textures drawn by
lot. Each has keys and a store of its own, so what it finished before is not computed again.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from s3e.config import Config, load_config
from s3e.pipeline.folders import Store
from s3e.pipeline.graph import Selection, falsifier
from s3e.pipeline.keys import WEIGHTS, Keys
from s3e.utils import NOTEBOOKS, ROOT, S3EError

OWN = {"data.captioned", "data.subset", "data.whole_frames", "data.train", "data.val", "data.test"}
OWN |= {"blur.frames", "blur.average"}  # overrides that stay with the borrower


def _in_full(text: str, found: Callable[[Path], bool]) -> str:
    candidates = [Path(text).expanduser(), ROOT / text]
    return str(next((path.resolve() for path in candidates if found(path)), text))


def data_folder(data: str) -> str:
    """A data folder as given from the working folder or from the repository's root; "scenes" stays."""
    return data if data == "scenes" else _in_full(data, Path.is_dir)


def settled(overrides: dict[str, Any] | None) -> dict[str, Any] | None:
    """The overrides with the folder and the files that they name written in full."""
    if not isinstance(overrides, dict):
        return overrides
    given = {name: value for name, value in overrides.items() if isinstance(value, str)}
    folder = {name: data_folder(value) for name, value in given.items() if name == "data.captioned"}
    files = {
        name: _in_full(value, Path.is_file) for name, value in given.items() if name in WEIGHTS
    }
    return {**overrides, **folder, **files}


def lent_overrides(overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides that reach the lender."""
    stays = OWN | ({"blur.severity"} if overrides.get("blur.severity") == "released" else set())
    return {name: value for name, value in overrides.items() if name not in stays}


def random_overrides(overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides of the falsifier."""
    return {**overrides, "data.texture": "random"}


OVERRIDES = {"captioned": lent_overrides, "random": random_overrides}  # by `Instance.of`


def lender_config(config: Config, overrides: dict[str, Any]) -> Config:
    """The settings of the captioned study; raises `S3EError` if it cannot be one."""
    captioned = config.data.captioned
    remedy = "give a folder with captions by --set data.captioned=FOLDER"
    if captioned != "scenes" and not (captioned and Path(captioned).is_dir()):
        raise S3EError(f"data.captioned = '{captioned}' is no folder; {remedy}, or 'scenes'.")
    try:
        return load_config(config.profile, captioned, 0, lent_overrides(overrides))
    except S3EError as error:
        why = str(error).rstrip(".")
        raise S3EError(
            f"{config.data.source} has no captions and '{captioned}' lends none ({why}); {remedy}."
        ) from None


def open_study(
    config: Config,
    overrides: dict[str, Any],
    selection: Selection,
    notebooks: Path = NOTEBOOKS,
    run_dir: str = "",
) -> tuple[Keys, Store]:
    """Keys and store of a study, with those of the other studies that it reads inside."""
    keys, store = Keys(config, selection, notebooks), Store.of(config, overrides, run_dir)
    keys.falsifier = falsifier(config, selection)
    configs = {} if keys.captioned else {"captioned": lender_config(config, overrides)}
    if keys.falsifier:
        configs["random"] = load_config(
            config.profile, config.data.source, 0, random_overrides(overrides)
        )
    for name, other in configs.items():
        keys.others[name] = Keys(other, selection, notebooks)
        store.others[name] = Store.of(other, OVERRIDES[name](overrides))
        if not keys.others[name].captioned:
            raise S3EError(
                f"data.captioned = '{other.data.source}' holds no captions (found: {keys.others[name].kind}); name a "
                "folder that has them, or 'scenes'."
            )
    return keys, store
