"""What `deblur`, `blur` and `caption` share: photos named on the command line, names of results, one line an error."""

import os
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from s3e.data.photos import SHORTEST
from s3e.data.readers import is_photo, walk
from s3e.inference.photos import SAVED
from s3e.utils import S3EError

if TYPE_CHECKING:
    from s3e.inference.restorer import Restorer

KERNEL = ".kernel.png"  # end of the name of a kernel, beside the photo that `blur` made by it
FAILED, THERE, DONE = "failed", "were there already", "done"


class AlreadyThere(S3EError):
    """A result, or a file beside it, is there and may not be replaced."""


class Job(NamedTuple):
    """A photo, the file for its result, and the files beside it."""

    photo: Path
    result: Path
    beside: tuple[Path, ...] = ()


def add_photos(parser: ArgumentParser) -> None:
    """PHOTO...: what every command reads."""
    parser.add_argument(
        "photos", type=Path, nargs="+", metavar="PHOTO", help="photos, or folders of photos"
    )


def add_results(parser: ArgumentParser) -> None:
    """Where results go."""
    text = "the folder for the results; other results inside a folder that is named as PHOTO are read as photos"
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help=text)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files that are there already"
    )


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

    In a folder, results in `output` and kernels beside their photos are left out. Raises `S3EError` for a path that
    does not exist and where nothing is left.
    """
    if missing := [path for path in named if not path.exists()]:
        raise S3EError(
            f"{missing[0]} does not exist ({len(missing)} of {len(named)}): correct the path."
        )
    found, problems = {}, []
    for path in named:
        files = [path]
        if path.is_dir():
            inside = walk(path)
            problems += map(str, inside.problems)
            files = [file for place in inside.files.items() for file in _photos(*place)]
            files = [file for file in files if not _result(file, path, output)]
        for file in files:
            found.setdefault(os.path.realpath(file), file)
    if not found:
        raise S3EError(
            f"{', '.join(map(str, named))}: no photo there; name photos or a folder that holds some."
        )
    return list(found.values()), problems


def _photos(folder: Path, names: Sequence[str]) -> list[Path]:
    """The photos among the files of a folder, without kernels that have their photo there."""
    photos = [name for name in names if is_photo(name)]
    stems = {Path(name).stem for name in photos}
    kernels = {stem + KERNEL for stem in stems}
    return [folder / name for name in photos if name not in kernels]


def _result(file: Path, named: Path, output: Path | None) -> bool:
    """Whether a photo below the folder `named` lies in `output`, a folder in that one: the result of an earlier run."""
    if not output:
        return False
    file, named, output = (Path(os.path.realpath(path)) for path in (file, named, output))
    return output in file.parents and named in output.parents


def plan(photos: Sequence[Path], folder: Path, beside: Sequence[str] = ()) -> list[Job]:
    """Files for the results in `folder`: the photo's name, numbered if another photo has it (a.jpg, a-2.jpg).

    `beside`: ends of the names of further files (a + ".json"). A photo in a format that is not written becomes a PNG.
    Raises `S3EError` if a result would replace one of the photos, or cannot be written into `folder`.
    """
    check_folder(folder)
    inputs = {_identity(photo): photo for photo in photos if photo.exists()}
    taken, jobs = set(), []
    for photo in photos:
        end = photo.suffix if photo.suffix.lower() in SAVED else ".png"
        for number in count(1):
            stem = photo.stem if number == 1 else f"{photo.stem}-{number}"
            names = {f"{stem}{end}".lower() for end in (end, *beside)}
            if not names & taken:
                break
        taken |= names
        job = Job(
            photo, folder / f"{stem}{end}", tuple(folder / f"{stem}{more}" for more in beside)
        )
        written = [_identity(file) for file in (job.result, *job.beside) if file.exists()]
        if lost := [inputs[identity] for identity in written if identity in inputs]:
            raise S3EError(f"{lost[0]} would be replaced by a result: give another folder with -o.")
        jobs.append(job)
    return jobs


def check_folder(folder: Path) -> None:
    """Raise `S3EError` unless files can be written into `folder`, which need not exist yet."""
    folder = folder.absolute()
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise S3EError(f"{there} is no folder: name another one for the results.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise S3EError(f"{there} may not be written to: name another folder for the results.")


def _identity(path: Path) -> tuple[int, int]:
    """The file itself, whatever it is called."""
    facts = path.stat()
    return facts.st_dev, facts.st_ino


def check_free(job: Job, overwrite: bool) -> None:
    """Raise `AlreadyThere` if a file of the job is there and may not be replaced."""
    there = [file for file in (job.result, *job.beside) if os.path.lexists(file)]
    if there and not overwrite:
        raise AlreadyThere(
            f"{there[0]} is there already, so {job.photo} is left out: add --overwrite or another -o."
        )


def for_each(items: Sequence, work: Callable, problems: Sequence[str] = ()) -> int:
    """Do `work` on each item, a photo or a `Job`; what goes wrong is told and the next one done.

    Returns 1 if there was anything, else 0. Ctrl-C ends it and says how far it came.
    """
    for problem in problems:
        _tell(problem)
    counted = Counter({FAILED: len(problems)})
    try:
        for item in items:
            counted[_tried(item, work)] += 1
    except KeyboardInterrupt:
        told = f"interrupted: {counted[DONE]} of {len(items)} photos done; no file is half written"
        raise KeyboardInterrupt(told) from None
    if counted[DONE] < counted.total():
        _tell(
            ", ".join(
                f"{counted[word]} {word}"
                for word in (FAILED, THERE, DONE)
                if counted[word] or word == DONE
            )
        )
    return int(counted[DONE] < counted.total())


def _tried(item: Path | Job, work: Callable) -> str:
    try:
        work(item)
        return DONE
    except AlreadyThere as error:
        _tell(str(error))
        return THERE
    except BrokenPipeError:  # not the photo: nobody reads what is printed
        raise
    except (S3EError, OSError, MemoryError, RuntimeError) as error:
        _tell(_explained(item.photo if isinstance(item, Job) else item, error))
        return FAILED


def _explained(photo: Path, error: Exception) -> str:
    """What went wrong with a photo, and the remedy. A RuntimeError that is not about memory (torch's is) is raised."""
    if isinstance(error, S3EError):
        return str(error)
    if isinstance(error, OSError):
        return f"{photo}: {error.strerror or error}; free space on the disk or name another folder for the results."
    from s3e.utils import out_of_memory

    if not out_of_memory(error):
        raise error
    return f"{photo}: too little memory; scale it down, or use deblur's --statistics tile or a smaller --tile."


def _tell(line: str) -> None:
    print(f"s3e: {line}", file=sys.stderr, flush=True)


def load_restorer(
    weights: Path | None, readers: Sequence[str] = ("full",), arm: str | None = None
) -> tuple["Restorer", str]:
    """The networks of `--weights`, and the first of `readers` that they have; a line (stderr) tells their use.

    Reader and arm are tried at once: raises `S3EError` where their weights are missing or damaged.
    """
    from s3e.inference.restorer import Restorer

    restorer, blank = Restorer.load(weights), np.zeros((SHORTEST, SHORTEST, 3), np.uint8)
    reader = next((name for name in readers if name in restorer.readers), readers[0])
    reading = restorer.read(blank, reader)
    if arm:
        restorer.restore(blank, arm, reading=reading)
    _tell(restorer.about)
    if reader != readers[0]:
        _tell(f"these weights have no {readers[0]}, so '{reader}' reads the photos")
    return restorer, reader


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
