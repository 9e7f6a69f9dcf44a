"""`python -m s3e data prepare ROOT`: decode, resize and blur a data folder once, into the cache of `s3e.data.cache`.

With `--profile` these are the very arrays that the pipeline reads under that profile; without it, all photos of the
folder. Exit codes: 0 the cache is there, 2 it cannot be made.
"""

import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, get_args

from tqdm import tqdm

from s3e.config import PROFILES, Blur, Config, Data, load_config, parse_setting
from s3e.data.cache import prepare_arrays
from s3e.data.plan import read_data
from s3e.data.sources import SPLITS, Subset
from s3e.utils import read_json

EVERYTHING = {f"data.{split}": 0 for split in SPLITS}


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("root", type=Path, metavar="ROOT", help="the data folder")
    add(
        "--profile",
        choices=list(PROFILES),
        help="prepare what the pipeline reads under this profile (default: all)",
    )
    add(
        "--size",
        type=int,
        choices=get_args(Data.model_fields["size"].annotation),
        help="side of the photos in pixels",
    )
    severities = get_args(Blur.model_fields["severity"].annotation)
    add(
        "--severity",
        choices=severities,
        help="of the training photos (validation and test come in all)",
    )
    add("--subset", choices=get_args(Subset), help="GoPro: which blurred frames")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="e.g. blur.gamma=2.2",
    )
    add("--jobs", type=int, default=0, metavar="N", help="processes; 0, the default: one a core")
    add("--skip-broken", action="store_true", help="report broken files and leave them out")
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where the cache goes (default: a folder of its own in runs/cache)",
    )


def execute(arguments: Namespace) -> int:
    """Make the cache, or say that it is there. Raises `S3EError` for a folder or settings that cannot be used."""
    config = settings(arguments)
    source = read_data(config, arguments.jobs, tqdm)
    for label, lines in {"left out": source.problems, "note": source.notes}.items():
        for line in lines:
            print(f"{label}: {line}")
    made = False

    def bar(chunks: Any, **options: Any) -> Any:
        nonlocal made
        made = True
        return tqdm(chunks, **options)

    begin = time.monotonic()
    folder = prepare_arrays(source, config, arguments.out, arguments.jobs, bar)
    report(folder, f"made in {time.monotonic() - begin:.0f} s" if made else "already there")
    return 0


def settings(arguments: Namespace) -> Config:
    """The configuration that the arguments ask for."""
    chosen = {
        "data.size": arguments.size,
        "data.subset": arguments.subset,
        "data.skip_broken": arguments.skip_broken or None,
        "blur.severity": arguments.severity,
    }
    overrides = {} if arguments.profile else dict(EVERYTHING)
    overrides |= {name: value for name, value in chosen.items() if value is not None}
    overrides |= dict(parse_setting(text) for text in arguments.set)
    return load_config(arguments.profile or "laptop", str(arguments.root), overrides=overrides)


def report(folder: Path, how: str) -> None:
    """Say where the cache is, what it holds and how large it is."""
    record = read_json(folder / "cache.json")
    print(f"cache: {folder} ({how}, {sum(record['files'].values()) / 1e6:,.0f} MB)")
    for name in SPLITS:
        (count, height, width, _), about = (
            record["shapes"][name],
            read_json(folder / f"{name}.json"),
        )
        views = [
            f"{view} ({count - len(about['missing'].get(view, ())):,})" for view in about["psnr"]
        ]
        print(
            f"{name:>5}: {count:,} photos of {width} x {height} pixels, sharp, {', '.join(views)}"
        )
