"""Public files of ImageNet weights: find, fetch and read them, `python -m s3e weights download NAME`.

Names and addresses are torchvision's; the eight hexadecimal digits of a name are the first of the file's SHA-256. No
code in a file is ever run: only plain tensors are read, from PyTorch's own format (`weights_only`) or safetensors.
"""

import zipfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from s3e.data.download import fetch
from s3e.utils import RUNS, S3EError, file_digest

ADDRESS = "https://download.pytorch.org/models"
FOLDER = RUNS / "weights"
PUBLIC = {  # file: the setting that takes it
    "vgg19-dcbb9e9d.pth": "loss.vgg19_weights",
    "resnet50-0676ba61.pth": "model.encoder_weights",
    "resnet50-11ad3fa6.pth": "model.encoder_weights",
    "resnet101-63fe2227.pth": "model.encoder_weights",
    "resnet101-cd907fc2.pth": "model.encoder_weights",
}


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of `python -m s3e weights download`."""
    parser.add_argument(
        "name", choices=PUBLIC, metavar="NAME", help=f"what to fetch: {', '.join(PUBLIC)}"
    )
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="where to (default: runs/weights)"
    )


def execute(arguments: Namespace) -> int:
    """Fetch one file (an interrupted call goes on where it stopped), check its digest, and say how to use it."""
    name, path = arguments.name, (arguments.to or FOLDER) / arguments.name
    remedy = f"run the command again, or fetch the file with a browser and put it at {path}"
    fetch(f"{ADDRESS}/{name}", path, sha256=_published(name), remedy=remedy, archive=False)
    print(f"{path} is ready: --set {PUBLIC[name]}={path.resolve() if arguments.to else name}")
    return 0


def locate(weights: str) -> Path:
    """The file that a setting means: a path, or a public name, then looked for in `runs/weights`.

    A file under a public name has the digest that its name tells. Raises `S3EError` where it has not, or is missing.
    """
    path = Path(weights)
    if weights in PUBLIC and not path.is_file():
        path = FOLDER / weights
    if not path.is_file():
        name = weights if weights in PUBLIC else "NAME"
        known = (
            ""
            if weights in PUBLIC
            else f" (one of {', '.join(PUBLIC)}), or give the path of a file of weights"
        )
        raise S3EError(
            f"{path} does not exist: fetch it by `python -m s3e weights download {name}`{known}."
        )
    if path.name in PUBLIC:
        status = path.stat()
        found = _digest(path, status.st_size, status.st_mtime_ns)
        if not found.startswith(_published(path.name)):
            raise S3EError(
                f"{path} is damaged or another file (its SHA-256 begins with {found[:8]}): delete it, then fetch it "
                f"by `python -m s3e weights download {path.name}`."
            )
    return path


@lru_cache
def _digest(path: Path, size: int, changed: int) -> str:
    """SHA-256 of a file, computed once as long as it has the same size and date."""
    return file_digest(path)


def _published(name: str) -> str:
    return Path(name).stem.rpartition("-")[2]


def read_state(path: Path, names: Iterable[str], foreign: str = "") -> dict[str, Tensor]:
    """The tensors `names` of a .pth or .safetensors file.

    Raises `S3EError` for a damaged file, one with other contents than tensors (nothing of it is run), one without a
    name, or with a name that begins with `foreign`, by which a similar network is told.
    """
    try:
        state = _load(path)
    except Exception as error:  # damaged bytes make the readers fail in every possible way
        reason = type(error).__name__
        raise S3EError(
            f"{path} is damaged, or holds more than plain weights ({reason}): give another file."
        ) from None
    missing = [name for name in names if not isinstance(state.get(name), Tensor)]
    if missing or (foreign and any(str(name).startswith(foreign) for name in state)):
        reason = f"it has no weights '{missing[0]}'" if missing else f"it has weights '{foreign}*'"
        raise S3EError(
            f"{path} belongs to another network ({reason}): give the file of the network that is set."
        )
    return {name: state[name] for name in names}


def _load(path: Path) -> dict:
    """All tensors of a file by name, left on the disk where the format allows it."""
    if path.suffix == ".safetensors":
        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if not isinstance(state, dict):
        raise TypeError("not named tensors")
    return state


def load_public(
    module: nn.Module, weights: str, prefix: str = "", own: tuple[str, ...] = (), foreign: str = ""
) -> None:  # fmt: skip
    """Fill `module` from the file that `weights` means, where its names begin with `prefix`.

    Names of `module` that begin with one of `own` keep their values. Raises `S3EError` as `locate` and `read_state` do,
    and for other sizes.
    """
    path = locate(weights)
    wanted = {
        name: value
        for name, value in module.state_dict().items()
        if not name.startswith(own)
        and not name.endswith("num_batches_tracked")  # older files do not have them
    }
    state = read_state(path, [prefix + name for name in wanted], foreign)
    for name, value in wanted.items():
        found = state[prefix + name].shape
        if found != value.shape:
            raise S3EError(
                f"{path} belongs to another network ('{prefix}{name}' is {tuple(found)}, not {tuple(value.shape)}): "
                "give the file of the network that is set."
            )
    module.load_state_dict({name: state[prefix + name] for name in wanted}, strict=False)
