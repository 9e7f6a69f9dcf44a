"""`python -m s3e deblur PHOTO... -o DIR`: restore photos of any size; tell caption and tree.

Exit codes: 0 all done, 1 a photo is broken or its result was there already (the others are done), 2 wrong request.
"""

from argparse import ArgumentParser, Namespace

from s3e.inference.caption import told
from s3e.inference.commands import (
    Job,
    add_photos,
    add_results,
    add_weights,
    check_free,
    find_photos,
    for_each,
    load_restorer,
    plan,
    progress_bar,
)
from s3e.inference.photos import read_photo, write_photo
from s3e.utils import S3EError, write_json

MEMORY = (
    "Memory: about 0.2 GiB a megapixel beyond 0.4 GiB with networks of width 16 (the demonstration weights), more with "
    "wider ones; two thirds of it with --statistics tile."
)


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = MEMORY
    add_photos(parser)
    add_results(parser)
    add_weights(parser)
    parser.add_argument(
        "--arm",
        choices=("full", "baseline"),
        default="full",
        help="S3E-Deblur (default) or its backbone",
    )
    text = "print the {}, and write it to NAME.json; by the reader whose tree guides the restoration ('full')"
    parser.add_argument("--caption", action="store_true", help=text.format("caption"))
    parser.add_argument("--tree", action="store_true", help=text.format("S3-tree"))
    parser.add_argument(
        "--tile", type=int, metavar="N", help="side of a tile in pixels; 0: the photo in one piece"
    )
    text = "means of the networks over the whole photo (default), or each tile's own: less memory, another result"
    parser.add_argument("--statistics", choices=("whole", "tile"), default="whole", help=text)


def execute(arguments: Namespace) -> int:
    """Restore the photos; return 0 or 1. Raises `S3EError` for a wrong request, before anything is computed."""
    if arguments.tile is not None and arguments.tile < 0:
        raise S3EError(f"--tile {arguments.tile}: give 0 or more pixels.")
    photos, problems = find_photos(arguments.photos, arguments.output)
    jobs = plan(photos, arguments.output, [".json"] if arguments.caption or arguments.tree else [])
    restorer, reader = load_restorer(arguments.weights, arm=arguments.arm)
    options = {"statistics": arguments.statistics} | (
        {} if arguments.tile is None else {"tile": arguments.tile}
    )

    def restore(job: Job) -> None:
        check_free(job, arguments.overwrite)
        photo = read_photo(job.photo)
        reading = (
            restorer.read(photo.pixels, reader) if arguments.arm == "full" or job.beside else None
        )
        with progress_bar(job.photo.name) as progress:
            restored = restorer.restore(
                photo.pixels, arguments.arm, reading=reading, progress=progress, **options
            )
        write_photo(restored, photo, job.result)
        print(f"{job.result}{_noted(photo.notes)}", flush=True)
        for path in job.beside:
            facts, text = told(reading, arguments.caption, arguments.tree)
            write_json(
                path,
                {"photo": job.photo.name, "weights": restorer.about, "reader": reader, **facts},
            )
            print(text, flush=True)

    return for_each(jobs, restore, problems)


def _noted(notes: tuple[str, ...]) -> str:
    return f" ({', '.join(notes)})" if notes else ""
