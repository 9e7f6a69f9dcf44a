"""What a data source is: photos with ids, captions or blurred partners, in fixed splits; readers for what lies on disk.

`read_source` finds out what a folder holds (MSCOCO in its official layout or with Karpathy's file, GoPro, or just
photos); `open_source` does the same and refuses a folder with broken records unless the user allows to skip them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from s3e.utils import S3EError

SPLITS = ("train", "val", "test")
Kind = Literal["coco", "karpathy", "gopro", "folder"]
Rule = Literal["given", "halved", "hashed", "sequence"]
Subset = Literal["blur", "blur_gamma"]


@dataclass(frozen=True)
class Problem:
    """Something wrong with a file or record: where, what, and what the user can do."""

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.remedy}."


@dataclass(frozen=True)
class Photo:
    """One photo on disk. `id` is unique in its source: splits, blur and tables are keyed by it."""

    id: str
    path: Path  # the sharp photo
    captions: tuple[str, ...] = ()
    blurred: Path | None = None  # pairs: the released blurred frame
    sequence: str = ""  # pairs: the video it comes from
    frame: int = -1  # pairs: its number in the video


@dataclass(frozen=True)
class Source:
    """A data set as it lies on disk.

    `rule` says who made the splits: "given" by its files, "halved" (val split in two by id), "hashed" (all by id) or
    "sequence" (validation videos taken from train). `protocol` is one sentence for tables; `problems` what was skipped.
    """

    kind: Kind
    root: Path
    splits: dict[str, list[Photo]]
    rule: Rule
    protocol: str
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def captioned(self) -> bool:
        return self.kind in ("coco", "karpathy")

    @property
    def paired(self) -> bool:
        return self.kind == "gopro"


def read_source(root: Path | str, subset: Subset = "blur") -> Source:
    """Find out what the folder `root` holds and read it; broken records are left out and told in `problems`.

    Tried in this order: Karpathy's `dataset_*.json`, MSCOCO's `annotations/captions_*.json`, GoPro's sequences (of
    which `subset` names the blurred frames), any photos. Raises `S3EError` if the folder cannot be used at all.
    """
    from s3e.data import coco, folder, gopro  # they import the dataclasses above

    root = Path(root)
    if subset not in get_args(Subset):
        raise S3EError(
            f"data.subset is '{subset}'; it must be one of {', '.join(get_args(Subset))}."
        )
    if not root.is_dir():
        raise S3EError(f"{root}: there is no such folder; give the folder that holds the photos.")
    captions = coco.read(root)
    if captions:
        return captions
    tree = folder.walk(root)
    return gopro.read(root, tree, subset) if gopro.found(tree) else folder.read(root, tree)


def open_source(root: Path | str, subset: Subset = "blur", skip_broken: bool = False) -> Source:
    """`read_source`, but a folder with broken records raises `S3EError` unless `skip_broken`."""
    source = read_source(root, subset)
    if not skip_broken:
        refuse(source.problems, source.root)
    return source


def refuse(problems: Sequence[Problem], root: Path) -> None:
    """Raise `S3EError` if there is any problem: it names the first, and how to see or skip the others."""
    if problems:
        more = f"... and {len(problems) - 1} more; " if len(problems) > 1 else ""
        raise S3EError(
            f"{str(problems[0])[:-1]} ({more}`python -m s3e data check {root}` lists them; --skip-broken, "
            "or --set data.skip_broken=true for run_all.py, leaves them out)."
        )


def check_splits(
    root: Path, splits: dict[str, list[Photo]], problems: Sequence[Problem], remedy: str
) -> None:
    """Raise `S3EError` if a split holds fewer than 2 photos; the first problem may be the reason and is named."""
    for name in SPLITS:
        if (count := len(splits[name])) < 2:
            why = (
                f" ({len(problems)} left out, the first: {str(problems[0])[:-1]})"
                if problems
                else ""
            )
            raise S3EError(
                f"{root}: the {name} split has fewer than 2 usable photos ({count}); {remedy}{why}."
            )
