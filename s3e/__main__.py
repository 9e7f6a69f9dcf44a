"""`python -m s3e VERB`: the suite's command line. Exit codes: 0 done, 1 something was broken, 2
wrong request.

`verbs.yaml` lists the verbs. Each calls one function with its arguments as keywords; the function's
module, slow to import, is imported only then.
"""

import argparse
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3e.config import PROFILES, VARIANTS, Config, load_config, parse_setting
from s3e.utils import FIGURES, S3EError, data_file, read_json, reader_gone

if TYPE_CHECKING:
    from s3e.data.corpus import Sizes

COCO_WORDS = 9_490  # of Karpathy's training captions, those that occur at most five times left out
VERBS = data_file("verbs.yaml")
TYPES = {"path": Path, "int": int}  # of arguments
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


def build_report(folder: Path | None) -> int:
    """`report build`: write the report and say where it is."""
    from s3e.report.manifest import build

    path = build(folder or FIGURES / "study")
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


def info(profile: str, settings: list[str]) -> int:
    """`info`: networks of a profile with parameters and multiply-adds."""
    from tabulate import tabulate

    overrides = dict(parse_setting(text) for text in settings)
    photos = PROFILES.get(profile, {}).get("data", {}).get("source") == ""
    config = load_config(profile, "." if photos else "scenes", overrides=overrides)
    sizes, origin = vocabulary(config)
    print(f"profile     {profile}, images of {config.data.size} x {config.data.size} pixels")
    labels = f"{sizes.entities:,} entities, {sizes.relations:,} relations"
    print(f"vocabulary  {sizes.words:,} words, {labels}, as {origin}")
    for text in config.fallbacks():
        print(f"fallback    {text}")
    rows = [
        (name, f"{parameters:,}", f"{macs / 1e9:.3f} G")
        for name, (parameters, macs) in network_costs(config, sizes).items()
    ]
    headers, align = ("network", "parameters", "multiply-adds"), ("left", "right", "right")
    print("\n" + tabulate(rows, headers, "simple", disable_numparse=True, colalign=align))
    print(
        "\nMultiply-adds of convolutions and matrix products, as torch.utils.flop_counter counts"
        " them, halved: one image forward,\nthe decoder over a caption of full length, the"
        " embedding as what it adds to the generator."
    )
    return 0


def vocabulary(config: Config) -> tuple["Sizes", str]:
    """Numbers of words and labels, and whose they are: those of the built-in scenes, or as many as
    the settings allow, with MSCOCO's number of words.
    """
    from s3e.data.corpus import Sizes

    if config.data.source == "scenes":
        known = read_json(Path(__file__).parent / "weights/01_data_blurring/all/vocabulary.json")
        labels = {name: len(names) for name, names in known["labels"].items()}
        return Sizes(len(known["words"]), **labels), "the demonstration weights have them"
    limits = config.text.entities + 1, config.text.relations + 1  # NULL is one more
    return Sizes(COCO_WORDS, *limits), "the settings allow, words as in MSCOCO"


def network_costs(config: Config, sizes: "Sizes") -> dict[str, tuple[int, int]]:
    """Parameters and multiply-adds (one image forward, a caption of full length) of each network of
    S3E-Deblur.

    `sizes`: see `vocabulary`. Nothing is computed: tensors have shapes and no values.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from s3e.data.corpus import Batch
    from s3e.models.build import build_critic, build_model, count_parameters

    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        image = torch.zeros(1, 3, config.data.size, config.data.size)
        words = torch.zeros(1, config.text.max_words + 2).long()  # with its signs of begin and end
        model, critic = build_model(config, sizes, "full").eval(), build_critic(config)
        source, generator = model.semantics, model.generator
        read = model(Batch([""], image, image, words, words, None))[1]
        source.decoder(words, read.context, read.items, length=words.shape[1])
        critic(image)
    flops = {name: sum(parts.values()) for name, parts in counter.get_flop_counts().items()}
    embedding = sum(flops[f"S3EDeblur.generator.embed.{place}"] for place in generator.embed)
    generating = flops["S3EDeblur.generator"] - embedding
    alone = count_parameters(generator) - count_parameters(generator.embed)
    found = {"generator": (alone, generating // 2)}
    found["critic"] = count_parameters(critic), flops["Critic"] // 2
    for name, part in source.named_children():
        found[name] = count_parameters(part), flops[f"S3EDeblur.semantics.{name}"] // 2
    return found | {"embedding": (count_parameters(generator.embed), embedding // 2)}


def main(command: list[str] | None = None) -> int:
    """Run one command; an `S3EError` is printed as one line and gives exit code 2."""
    try:
        arguments = vars(parser().parse_args(command))
        module, _, function = arguments.pop("calls").partition(":")
        code = getattr(importlib.import_module(module), function)(**arguments)
        sys.stdout.flush()
        return code
    except S3EError as error:
        print(f"s3e: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        again = "interrupted; the same command goes on where it stopped"
        print(f"\n{str(stop) or again}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return reader_gone()


if __name__ == "__main__":
    sys.exit(main())
