"""What `deblur`, `blur` and `caption` share: photos named on the command line, names of results, one line an error."""

import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from s3e.data.folder import is_photo, walk
from s3e.data.photos import SHORTEST
from s3e.inference.photos import SAVED
from s3e.paths import S3EError

if TYPE_CHECKING:
    from s3e.inference.restorer import Restorer


class Job(NamedTuple):
    """A photo, the file for its result, and the files beside it."""

    photo: Path
    result: Path
    beside: tuple[Path, ...] = ()


def add_photos(parser: ArgumentParser) -> None:
    """PHOTO...: what every command reads."""
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO", help="photos, or folders of photos")


def add_results(parser: ArgumentParser) -> None:
    """Where results go."""
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the folder for the results")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there already")


def add_weights(parser: ArgumentParser) -> None:
    """Which networks are used."""
    text = "a finished store of runs such as runs/laptop, or an exported folder; default: the demonstration weights"
    parser.add_argument("--weights", type=Path, metavar="PATH", help=text)


def between(low: float, high: float) -> Callable[[str], float]:
    """The type of an argument that is a number from `low` to `high`."""

    def number(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
        return value

    return number


def find_photos(named: Sequence[Path], output: Path | None = None) -> tuple[list[Path], list[str]]:
    """The photos that are named, each once, those of folders sorted; and what is wrong with a folder.

    Results in `output` are not looked for. Raises `S3EError` for a path that does not exist and where nothing is left.
    """
    if missing := [path for path in named if not path.exists()]:
        raise S3EError(f"{missing[0]} does not exist ({len(missing)} of {len(named)}): correct the path.")
    found, problems = {}, []
    for path in named:
        inside = walk(path) if path.is_dir() else None
        problems += [str(problem) for problem in inside.problems] if inside else []
        files = [path] if inside is None else [place / name for place, names in inside.files.items() for name in names]
        if inside:
            files = [file for file in files if is_photo(file.name) and not _result(file, path, output)]
        found |= {file.resolve(): file for file in files}
    if not found:
        raise S3EError(f"{', '.join(map(str, named))}: no photo there; name photos or a folder that holds some.")
    return list(found.values()), problems


def _result(file: Path, named: Path, output: Path | None) -> bool:
    """Whether a photo below the folder `named` lies in `output`, a folder in that one: the result of an earlier run."""
    return bool(output) and output.resolve() in file.resolve().parents and named.resolve() in output.resolve().parents


def plan(photos: Sequence[Path], folder: Path, beside: Sequence[str] = ()) -> list[Job]:
    """Files for the results in `folder`: the photo's name, numbered if another photo has it (a.jpg, a-2.jpg).

    `beside`: ends of the names of further files (a + ".json"). A photo in a format that is not written becomes a PNG.
    Raises `S3EError` if a result would replace one of the photos, or `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise S3EError(f"{folder} is a file: give a folder with -o.")
    inputs, taken, jobs = {_identity(photo) for photo in photos}, set(), []
    for photo in photos:
        end = photo.suffix if photo.suffix.lower() in SAVED else ".png"
        for number in count(1):
            stem = photo.stem if number == 1 else f"{photo.stem}-{number}"
            names = {f"{stem}{end}".lower() for end in (end, *beside)}
            if not names & taken:
                break
        taken |= names
        job = Job(photo, folder / f"{stem}{end}", tuple(folder / f"{stem}{more}" for more in beside))
        if any(file.exists() and _identity(file) in inputs for file in (job.result, *job.beside)):
            raise S3EError(f"{photo} would be replaced by a result: give another folder with -o.")
        jobs.append(job)
    return jobs


def _identity(path: Path) -> tuple[int, int]:
    """The file itself, whatever it is called."""
    facts = path.stat()
    return facts.st_dev, facts.st_ino


def check_free(job: Job, overwrite: bool) -> None:
    """Raise `S3EError` if a file of the job is there and may not be replaced."""
    there = [file for file in (job.result, *job.beside) if file.exists()]
    if there and not overwrite:
        raise S3EError(f"{there[0]} is there already, so {job.photo} was left out: add --overwrite or name another -o.")


def for_each(items: Sequence, work: Callable, problems: Sequence[str] = ()) -> int:
    """Do `work` on each item; an `S3EError` is told and the next one done. Returns 1 if there was any, else 0."""
    failed = list(problems)
    for problem in problems:
        _tell(problem)
    for item in items:
        try:
            work(item)
        except S3EError as error:
            failed.append(str(error))
            _tell(str(error))
    if failed:
        _tell(f"{len(failed)} failed, {len(items) - len(failed) + len(problems)} done")
    return 1 if failed else 0


def _tell(line: str) -> None:
    print(f"s3e: {line}", file=sys.stderr, flush=True)


def load_restorer(weights: Path | None, reader: str = "full", arm: str | None = None) -> "Restorer":
    """The networks of `--weights`; a line (stderr) tells what they are good for.

    Reader and arm are tried at once: raises `S3EError` where their weights are missing or damaged.
    """
    from s3e.inference.restorer import Restorer

    restorer, blank = Restorer.load(weights), np.zeros((SHORTEST, SHORTEST, 3), np.uint8)
    reading = restorer.read(blank, reader)
    if arm:
        restorer.restore(blank, arm, reading=reading)
    _tell(restorer.about)
    return restorer


@contextmanager
def progress_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A function (done, total) that draws a bar on stderr from its first call on."""
    bars: list[tqdm] = []

    def report(done: int, total: int) -> None:
        if not bars:
            bars.append(tqdm(total=total, desc=name, leave=False))
        bars[0].update(done - bars[0].n)

    try:
        yield report
    finally:
        for bar in bars:
            bar.close()
