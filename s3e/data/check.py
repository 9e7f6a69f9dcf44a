"""`python -m s3e data check ROOT`: what a data folder holds, and which of its files are broken.

Exit codes: 0 nothing is broken (or `--skip-broken` allows it), 1 something is, 2 the folder cannot be used.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import get_args

from tqdm import tqdm

from s3e.data.prepare import survey, survey_folder, usable
from s3e.data.readers import Source, Subset, Survey, read_source

HOLDS = {
    "coco": "photos with captions, in MSCOCO's layout",
    "karpathy": "photos with captions, split by Karpathy's file",
    "gopro": "pairs of blurred and sharp frames, in GoPro's layout",
    "folder": "photos without captions",
}


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("root", type=Path, metavar="ROOT", help="the data folder")
    parser.add_argument(
        "--subset", choices=get_args(Subset), default="blur", help="GoPro: which blurred frames"
    )
    parser.add_argument(
        "--jobs", type=int, default=0, metavar="N", help="processes; 0, the default: one a core"
    )
    parser.add_argument(
        "--skip-broken", action="store_true", help="broken files are reported, but allowed"
    )


def execute(arguments: Namespace) -> int:
    """Print the report; return 0 or 1. Raises `S3EError` for a folder that cannot be used."""
    source = read_source(arguments.root, arguments.subset)
    say("folder", source.root)
    say("holds", HOLDS[source.kind])
    say("protocol", source.protocol)
    seen = survey(source, survey_folder(source.root), arguments.jobs, tqdm)
    say("sizes", sizes(seen))
    problems = source.problems + seen.problems
    for problem in problems:
        say("problem", problem)
    kept = usable(source, seen, skip_broken=True)
    for note in (*unusual(seen), *kept.notes):
        say("note", note)
    for label, line in zip_longest(["splits"], table(kept), fillvalue=""):
        say(label, line)
    if not problems:
        say("result", "nothing is broken")
        return 0
    say(
        "result",
        f"{len(problems)} broken, left out of the splits above"
        + ("" if arguments.skip_broken else REMEDY),
    )
    return 0 if arguments.skip_broken else 1


REMEDY = "; mend them, or allow that with --skip-broken (data.skip_broken in a run)"


def say(label: str, text: object) -> None:
    """One line of the report."""
    print(f"{label:<10}{text}", flush=True)


def sizes(seen: Survey) -> str:
    """The smallest, median and largest photo (by area), width x height in pixels."""
    ordered = sorted(
        (look.size for look in seen.looks.values()), key=lambda size: (size[0] * size[1], size)
    )
    if not ordered:
        return "no photo can be read"
    places = {"smallest": 0, "median": (len(ordered) - 1) // 2, "largest": -1}
    return ", ".join(
        f"{name} {ordered[place][0]} x {ordered[place][1]}" for name, place in places.items()
    )


def unusual(seen: Survey) -> Iterator[str]:
    """How many photos are grey, turned and the like, and the first of them by id."""
    by_note: dict[str, list[str]] = {}
    for name, look in seen.looks.items():
        for note in look.notes:
            by_note.setdefault(note, []).append(name)
    for note, ids in sorted(by_note.items()):
        yield f"{note}, converted when read: {len(ids)} ({', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''})"


def table(source: Source) -> Iterator[str]:
    """Photos of each split, with their captions or sequences, in columns."""
    columns = {"pairs" if source.paired else "photos": len}
    if source.captioned:
        columns["captions"] = lambda photos: sum(len(photo.captions) for photo in photos)
    if source.paired:
        columns["sequences"] = lambda photos: len({photo.sequence for photo in photos})
    yield "     " + "".join(f"{name:>11}" for name in columns)
    for split, photos in source.splits.items():
        yield f"{split:<5}" + "".join(f"{count(photos):>11}" for count in columns.values())
