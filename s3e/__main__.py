"""`python -m s3e VERB`: the suite's command line. docs/commands.md explains exit codes.

`verbs.yaml` lists the verbs. Each calls one function with its arguments as keywords; the function's
module, slow to import, is imported only then.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3e.config import PROFILES, VARIANTS, Config, load_config, parse_setting
from s3e.utils import (
    S3EError,
    data_file,
    disk_errors,
    end_output,
    open_streams,
    read_json,
    say,
)

if TYPE_CHECKING:
    from s3e.data.corpus import Sizes

COCO_WORDS = 9_490  # of Karpathy's training captions, those that occur at most five times left out
VERBS = data_file("verbs.yaml")
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


def info(profile: str, settings: list[tuple[str, Any]]) -> int:
    """`info`: networks of a profile with parameters and multiply-adds, of one image and caption."""
    from tabulate import tabulate

    photos = PROFILES.get(profile, {}).get("data", {}).get("source") == ""
    config = load_config(profile, "." if photos else "scenes", overrides=dict(settings))
    sizes, side = vocabulary(config), config.data.size
    rows = [(name, *cost) for name, cost in network_costs(config, sizes).items()]
    print(f"{profile}: images of {side} x {side} pixels, a vocabulary of {sizes.words:,} words")
    print(tabulate(rows, ("network", "parameters", "multiply-adds"), "simple", intfmt=","))
    return 0


def vocabulary(config: Config) -> "Sizes":
    """Numbers of words and labels of the built-in scenes; of photos those that settings allow.

    Words of photos are as many as in MSCOCO.
    """
    from s3e.data.corpus import Sizes

    if config.data.source == "scenes":
        known = read_json(Path(__file__).parent / "weights/01_data_blurring/all/vocabulary.json")
        return Sizes(len(known["words"]), **{kind: len(x) for kind, x in known["labels"].items()})
    return Sizes(COCO_WORDS, config.text.entities + 1, config.text.relations + 1)  # with NULL


def network_costs(config: Config, sizes: "Sizes") -> dict[str, tuple[int, int]]:
    """Parameters and multiply-adds (of convolutions and matrix products) of each network.

    For one image and a caption of full length; tensors have shapes alone, nothing is computed.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from s3e.models.build import build_critic, build_model, count_parameters

    def cost(network: torch.nn.Module, *inputs: Any, **options: Any) -> tuple[int, int]:
        with FlopCounterMode(display=False) as counter:
            network(*inputs, **options)
        return count_parameters(network), counter.get_total_flops() // 2

    with torch.device("meta"), torch.no_grad():
        image = torch.zeros(1, 3, config.data.size, config.data.size)
        words = torch.zeros(1, config.text.max_words + 2).long()  # with its signs of begin and end
        alone, whole = (build_model(config, sizes, name).eval() for name in ("baseline", "full"))
        source = whole.semantics
        read = source(image)
        return {
            "generator": cost(alone.generator, image),
            "generator with node maps": cost(whole.generator, image, read.maps),
            "critic": cost(build_critic(config), image),
            "encoder": cost(source.encoder, image),
            "tree": cost(source.tree, read.features),
            "decoder": cost(source.decoder, words, read.context, read.items, length=words.shape[1]),
        }


def main(command: list[str] | None = None) -> int:
    """Run one command; an `S3EError` is printed as one line and gives exit code 2.

    So is, with exit code 1, what the system refuses and nobody foresaw.
    """
    open_streams()
    try:
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
