"""`python -m s3e caption PHOTO...`: print captions of photos, and their trees.

Exit codes: 0 all done, 1 a photo is broken (the others are done), 2 wrong request.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3e.inference.commands import (
    add_photos,
    add_weights,
    check_folder,
    find_photos,
    for_each,
    load_restorer,
)
from s3e.inference.photos import read_photo
from s3e.report.diagram import NODE_NAMES, NULL
from s3e.utils import S3EError, write_json

if TYPE_CHECKING:
    from s3e.inference.restorer import Reading

READERS = "captioner", "full"  # the first that the weights have


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = (
        "The reader is the captioner, which knows sharp photos as well as blurred ones; where the weights have none, "
        "it is 'full', the reader of deblur, trained on blurred photos."
    )
    add_photos(parser)
    add_weights(parser)
    parser.add_argument("--tree", action="store_true", help="the S3-tree, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to a new file")


def execute(arguments: Namespace) -> int:
    """Print captions; return 0 or 1. Raises `S3EError` for a wrong request, before anything is computed."""
    if arguments.json and arguments.json.exists():
        raise S3EError(f"{arguments.json} is there already: remove it or name another file.")
    if arguments.json:
        check_folder(arguments.json.parent)
    photos, problems = find_photos(arguments.photos)
    restorer, reader = load_restorer(arguments.weights, READERS)
    everything: dict[str, Any] = {}

    def say(path: Path) -> None:
        facts, text = told(restorer.read(read_photo(path).pixels, reader), True, arguments.tree)
        everything[str(path)] = facts
        print(f"{path}\n{text}", flush=True)

    code = for_each(photos, say, problems)
    if arguments.json:
        write_json(
            arguments.json, {"weights": restorer.about, "reader": reader, "photos": everything}
        )
    return code


def told(reading: "Reading", caption: bool, tree: bool) -> tuple[dict[str, Any], str]:
    """Caption and tree of a reading, as facts for a file and as lines for a screen."""
    facts: dict[str, Any] = {"caption": reading.caption} if caption else {}
    lines = [f"  caption  {reading.caption}"] if caption else []
    if tree:
        rows = list(zip(NODE_NAMES, reading.nodes, map(float, reading.confidence), strict=True))
        facts["tree"] = [
            {"node": node, "label": label, "probability": round(p, 4)} for node, label, p in rows
        ]
        lines += [
            f"  {node:<8} {'(empty)' if label == NULL else label} {p:.0%}"
            for node, label, p in rows
        ]
    return facts, "\n".join(lines)
