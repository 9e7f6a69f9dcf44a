"""`python -m s3e VERB`: the suite's command line. Exit codes: 0 done, 1 something was broken, 2
wrong request.

Each verb calls one function with its arguments as keywords; the function's module, slow to import,
is imported only then.
"""

import argparse
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3e.config import PROFILES, VARIANTS, Config, load_config, parse_setting
from s3e.utils import FIGURES, S3EError, read_json, reader_gone

if TYPE_CHECKING:
    from s3e.data.corpus import Sizes

# MSCOCO, Karpathy's training captions, words that occur at most five times left out
COCO_WORDS = 9_490


def arg(*names: str, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """An argument of a verb, as `ArgumentParser.add_argument` takes it."""
    return names, options


def path(*names: str, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """An argument that is a file or a folder."""
    return arg(*names, type=Path, **options)


def flag(name: str, text: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """An argument without a value."""
    return arg(name, action="store_true", help=text)


PHOTOS = path("photos", nargs="+", metavar="PHOTO", help="photos, or folders of photos")
RESULTS = (
    path(
        "-o",
        "--output",
        required=True,
        metavar="DIR",
        help="folder for results; one that holds none of the photos",
    ),
    flag("--overwrite", "replace files that are there already"),
)
WEIGHTS = path(
    "--weights",
    metavar="PATH",
    help="a finished store (runs/laptop) or an exported folder; default: demonstration weights",
)
WRITTEN = "print the {}, and write it to NAME.json; by the reader whose tree guides the restoration"
ROOT = path("root", metavar="ROOT", help="the data folder")
JOBS = arg("--jobs", type=int, default=0, metavar="N", help="threads; 0, the default: one a core")
MANY: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
SETTINGS = arg("--set", dest="settings", **MANY, metavar="NAME=VALUE", help="e.g. loss.caption=0.5")
PROFILE = {"choices": list(PROFILES), "metavar": "NAME"}

VERBS: dict[str, Any] = {  # (module:function, what it does, its arguments), or actions
    "run": (
        "s3e.pipeline.runner:run_study",
        "run the whole study, or what of it is not fresh (the same as run_all.py)",
        arg("--profile", default="laptop", help=f"{', '.join(PROFILES)} (default: laptop)"),
        arg(
            "--data",
            default="scenes",
            help="'scenes' (built in) or a folder: COCO captions, GoPro, or just photos",
        ),
        arg(
            "--semantics-from",
            default="",
            metavar="STORE",
            help="for data without captions: the store of a finished study that has some",
        ),
        arg("--from", dest="first", metavar="STAGE", help="run this stage and all after it"),
        arg("--until", metavar="STAGE", help="run this stage and all before it"),
        SETTINGS,
        arg("--variants", **MANY, help=f"instead of the profile's: {', '.join(VARIANTS)}"),
        arg("--seeds", type=int, **MANY, help="instead of the profile's"),
        arg(
            "--jobs",
            type=int,
            default=0,
            metavar="N",
            help="notebooks at a time (default: what the cores or GPUs can feed)",
        ),
        arg(
            "--scheduler",
            metavar="ADDRESS",
            help="a Dask cluster (tcp://host:port), or local:N workers here",
        ),
        flag("--force", "run the chosen stages from scratch, fresh or not"),
        flag("--status", "say what is fresh, stale (and why), missing or running"),
    ),
    "deblur": (
        "s3e.inference.restorer:deblur_photos",
        "restore photos of any size, large ones in overlapping tiles",
        PHOTOS,
        *RESULTS,
        WEIGHTS,
        arg(
            "--variant",
            choices=("full", "baseline"),
            default="full",
            help="S3E-Deblur (default), or the deblurring network alone",
        ),
        flag("--caption", WRITTEN.format("caption")),
        flag("--tree", WRITTEN.format("S3-tree")),
        arg(
            "--tile",
            type=int,
            metavar="N",
            default=argparse.SUPPRESS,
            help="side of a tile in pixels, a multiple of 16 from 256 on (default: 1536); a smaller"
            " one needs less memory; 0: one piece",
        ),
    ),
    "blur": (
        "s3e.inference.photos:blur_photos",
        "blur photos by a random camera shake of a named severity, and write its kernels",
        PHOTOS,
        *RESULTS,
        arg(
            "--severity",
            choices=("light", "moderate", "severe"),
            default="moderate",
            help="default: moderate",
        ),
        arg("--seed", type=int, default=0, help="another shake for the same photo; default: 0"),
    ),
    "caption": (
        "s3e.inference.restorer:caption_photos",
        (
            "print captions and trees of photos, as the captioner reads them (or 'full', where the"
            " weights have none)"
        ),
        PHOTOS,
        WEIGHTS,
        flag("--tree", "the S3-tree, too"),
        path("--json", metavar="FILE", help="write everything to a new file"),
    ),
    "data": {
        "check": (
            "s3e.data.prepare:check",
            "say what a data folder holds, and which of its files are broken",
            ROOT,
            arg("--subset", choices=("blur", "blur_gamma"), default="blur", help="GoPro's frames"),
            JOBS,
        ),
        "prepare": (
            "s3e.data.prepare:prepare",
            "decode, resize and blur a data folder once, into a cache",
            ROOT,
            arg("--profile", **PROFILE, default="laptop", help="for which profile (laptop)"),
            SETTINGS,
            JOBS,
        ),
        "download": (
            "s3e.data.download:download",
            "fetch MSCOCO or GoPro from its official address",
            arg("dataset", choices=("coco", "gopro"), help="what to fetch"),
            path("--to", metavar="FOLDER", help="where to (default: runs/data/DATASET)"),
            path("--archive", metavar="FILE", help="unpack this archive, fetched by hand"),
        ),
    },
    "weights": {
        "export": (
            "s3e.inference.restorer:export_weights",
            "copy the networks of a finished store of runs into a folder, with a card",
            path("store", help="a finished store of runs, e.g. runs/study"),
            path("--to", required=True, metavar="FOLDER", help="a new or empty folder"),
        ),
    },
    "report": {
        "check": (
            "s3e.report.manifest:check",
            "say which figures and tables were edited, are missing or made by older code",
            path("folders", nargs="*", metavar="FOLDER", help="default: those that are published"),
            flag("--strict", "fail on what older code made, too"),
        ),
        "build": (
            "s3e.__main__:build_report",
            "put a folder of figures and tables into one HTML file",
            path("folder", nargs="?", metavar="FOLDER", help="default: figures/study"),
        ),
        "fill": ("s3e.report.manifest:fill", "write results from files into README and docs"),
    },
    "info": (
        "s3e.__main__:info",
        "print networks, parameters and multiply-adds of a profile",
        arg("--profile", **PROFILE, default="laptop", help="default: laptop"),
        SETTINGS,
    ),
}


def parser() -> argparse.ArgumentParser:
    """The command line; `run` among its results is the "module:function" of the chosen verb."""
    result = argparse.ArgumentParser("python -m s3e", allow_abbrev=False)
    _add(result, VERBS)
    return result


def _add(parent: argparse.ArgumentParser, verbs: dict[str, Any]) -> None:
    choice = parent.add_subparsers(required=True, metavar="VERB")
    for name, verb in verbs.items():
        if isinstance(verb, dict):
            _add(choice.add_parser(name, help=" | ".join(verb), allow_abbrev=False), verb)
            continue
        run, does, *arguments = verb
        child = choice.add_parser(name, help=does, description=does, allow_abbrev=False)
        child.set_defaults(run=run)
        for names, options in arguments:
            child.add_argument(*names, **options)


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
    photos = PROFILES[profile].get("data", {}).get("source") == ""
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
        module, _, function = arguments.pop("run").partition(":")
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
