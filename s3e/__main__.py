"""`python -m s3e VERB`: the suite's command line. Exit codes: 0 done, 1 something was broken, 2 wrong request."""

import argparse
import importlib
import sys

from s3e.utils import S3EError, reader_gone

COMMANDS = {
    "deblur": ("s3e.inference.deblur", "restore photos of any size; tell their captions and trees"),
    "blur": ("s3e.inference.blur", "blur photos by a random camera shake"),
    "caption": ("s3e.inference.caption", "print captions and trees of photos"),
    "data": {
        "check": (
            "s3e.data.check",
            "say what a data folder holds, and which of its files are broken",
        ),
        "prepare": ("s3e.data.prepare", "decode, resize and blur a data folder once, into a cache"),
        "download": ("s3e.data.download", "fetch MSCOCO or GoPro from its official address"),
    },
    "weights": {
        "download": (
            "s3e.models.build",
            "fetch public weights (VGG19, ResNet) from their official address",
        ),
        "export": (
            "s3e.inference.export",
            "copy the networks of a finished store of runs into a folder, with a card",
        ),
    },
    "report": {
        "check": (
            "s3e.report.manifest",
            "say which figures and tables were edited, are missing or made by older code",
        ),
    },
    "info": (
        "s3e.info",
        "print networks and multiply-adds of a profile, memory and time of its trainings",
    ),
}


def parser(command: list[str]) -> argparse.ArgumentParser:
    """The command line; the module of `command` (and no other, for they are slow to import) adds its own arguments."""
    result = argparse.ArgumentParser("python -m s3e", allow_abbrev=False)
    _add(result, COMMANDS, command, "VERB")
    return result


def _add(parent: argparse.ArgumentParser, commands: dict, words: list[str], what: str) -> None:
    choices = parent.add_subparsers(required=True, metavar=what)
    for name, entry in commands.items():
        chosen = words[:1] == [name]
        if isinstance(entry, dict):
            _add(
                choices.add_parser(name, help=" | ".join(entry)),
                entry,
                words[1:] if chosen else [],
                "ACTION",
            )
            continue
        module, does = entry
        action = choices.add_parser(name, help=does, description=does[0].upper() + does[1:] + ".")
        if chosen:
            code = importlib.import_module(module)
            code.configure(action)
            action.set_defaults(execute=code.execute)


def main(command: list[str] | None = None) -> int:
    """Run one command; an `S3EError` is printed as one line and gives exit code 2."""
    command = sys.argv[1:] if command is None else command
    try:
        arguments = parser(command).parse_args(command)
        code = arguments.execute(arguments)
        sys.stdout.flush()
        return code
    except S3EError as error:
        print(f"s3e: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(
            f"\n{stop or 'interrupted; the same command goes on where it stopped'}", file=sys.stderr
        )
        return 130
    except BrokenPipeError:
        return reader_gone()


if __name__ == "__main__":
    sys.exit(main())
