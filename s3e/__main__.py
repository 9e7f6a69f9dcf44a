"""`python -m s3e VERB`: the suite's command line. Exit codes: 0 done, 1 something was broken, 2 wrong request."""

import argparse
import importlib
import sys

from s3e.paths import S3EError

COMMANDS = {
    "data": {
        "check": ("s3e.data.check", "say what a data folder holds, and which of its files are broken"),
        "prepare": ("s3e.data.prepare", "decode, resize and blur a data folder once, into a cache"),
        "download": ("s3e.data.download", "fetch MSCOCO or GoPro from its official address"),
    },
}


def parser() -> argparse.ArgumentParser:
    """The command line; each command's module adds its own arguments (`configure`)."""
    result = argparse.ArgumentParser("python -m s3e", allow_abbrev=False)
    verbs = result.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, commands in COMMANDS.items():
        actions = verbs.add_parser(verb).add_subparsers(dest="action", required=True, metavar="ACTION")
        for name, (module, what) in commands.items():
            action = actions.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
            code = importlib.import_module(module)
            code.configure(action)
            action.set_defaults(execute=code.execute)
    return result


def main(command: list[str] | None = None) -> int:
    """Run one command; an `S3EError` is printed as one line and gives exit code 2."""
    try:
        arguments = parser().parse_args(command)
        return arguments.execute(arguments)
    except S3EError as error:
        print(f"s3e: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
