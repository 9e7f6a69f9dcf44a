"""`python -m s3e data check ROOT`, until the command line calls `prepare.check` itself."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import get_args

from s3e.data.prepare import check
from s3e.data.readers import Subset


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("root", type=Path)
    parser.add_argument("--subset", choices=get_args(Subset), default="blur")
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--skip-broken", action="store_true")


def execute(arguments: Namespace) -> int:
    return check(arguments.root, arguments.subset, arguments.jobs, arguments.skip_broken)
