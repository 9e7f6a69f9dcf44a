"""`python -m s3e VERB`: the suite's command line. docs/commands.md explains exit codes.

`verbs.yaml` lists the verbs. Each calls one function with its arguments as keywords; the function's
module, slow to import, is imported only then.
"""

import argparse
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

try:
    from s3e.config import PROFILES, VARIANTS, parse_setting
    from s3e.utils import S3EError, data_file, disk_errors, end_output, open_streams, say

    VERBS = data_file("verbs.yaml")
except KeyboardInterrupt:  # this takes a second or two
    sys.exit(130)

TYPES = {"path": Path, "int": int, "setting": parse_setting}  # of arguments
NAMES = {"profiles": ", ".join(PROFILES), "variants": ", ".join(VARIANTS)}  # in texts of help


def parser() -> argparse.ArgumentParser:
    """The command line; `calls` among its results is the "module:function" of the chosen verb."""
    result = argparse.ArgumentParser("python -m s3e", allow_abbrev=False)
    _add(result, VERBS)
    return result


def _add(parent: argparse.ArgumentParser, verbs: dict[str, Any]) -> None:
    choice = parent.add_subparsers(required=True, metavar="VERB")
    for name, verb in verbs.items():
        if "calls" not in verb:  # a group of verbs
            _add(choice.add_parser(name, help=" | ".join(verb), allow_abbrev=False), verb)
            continue
        does = verb["help"]
        child = choice.add_parser(name, help=does, description=does, allow_abbrev=False)
        child.set_defaults(calls=verb["calls"])
        for names, options in verb["arguments"].items():
            read = {"type": TYPES[options["type"]]} if "type" in options else {}
            text = options["help"].format(**NAMES)
            child.add_argument(*names.split(), **options | read | {"help": text})


def main(command: list[str] | None = None) -> int:
    """Run one command; an `S3EError` is printed as one line and gives exit code 2.

    So is, with exit code 1, what the system refuses and nobody foresaw. SIGTERM is as Ctrl-C.
    """
    open_streams()
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with disk_errors("the current folder", "change to another"):
            os.getcwd()  # where it is gone, some libraries end the process
        arguments = vars(parser().parse_args(command))
        module, _, function = arguments.pop("calls").partition(":")
        return end_output(getattr(importlib.import_module(module), function)(**arguments))
    except S3EError as error:
        say(error)
        return 2
    except KeyboardInterrupt as stop:
        say(str(stop) or "interrupted; the same command goes on where it stopped")
        return 130
    except BrokenPipeError:
        return end_output(141)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say(f"{where}{error.strerror or error}; mend it and try again.")
        return end_output(1)


if __name__ == "__main__":
    sys.exit(main())
