"""`python -m s3e VERB`: the suite's command line. Exit codes: 0 done, 1 something was broken, 2 wrong request.

Each verb calls one function with its arguments; the function's module, slow to import, is imported only then.
"""

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from s3e.config import PROFILES, Blur, Config, Data, choices, load_config, parse_setting
from s3e.utils import FIGURES, S3EError, reader_gone

COCO_WORDS = (
    9_490  # MSCOCO, Karpathy's training captions, words that occur at most five times left out
)
NetworkCost = tuple[str, int, int, tuple[int, ...]]


def parser() -> argparse.ArgumentParser:
    """The whole command line; `arguments.run` is "module:function" of the chosen verb."""
    root = argparse.ArgumentParser("python -m s3e", allow_abbrev=False)
    verbs = root.add_subparsers(required=True, metavar="VERB")

    def group(name: str, *actions: str) -> Any:
        inner = verbs.add_parser(name, help=" | ".join(actions), allow_abbrev=False)
        return inner.add_subparsers(required=True, metavar="ACTION")

    def verb(parent: Any, name: str, run: str | Callable, does: str, more: str = "") -> Callable:
        words = does[0].upper() + does[1:] + "."
        child = parent.add_parser(
            name, help=does, description=words, epilog=more, allow_abbrev=False
        )
        child.set_defaults(run=run)
        return child.add_argument

    _photo_verbs(verbs, verb)
    _data_verbs(group("data", "check", "prepare", "download"), verb)
    weights = group("weights", "download", "export")
    add = verb(
        weights,
        "download",
        "s3e.models.build:download_weights",
        "fetch public weights (VGG19, ResNet) from their official address",
    )
    add("name", metavar="NAME", help="what to fetch, e.g. vgg19-dcbb9e9d.pth")
    add("--to", type=Path, metavar="FOLDER", help="where to (default: runs/weights)")
    add = verb(
        weights,
        "export",
        "s3e.inference.restorer:export_weights",
        "copy the networks of a finished store of runs into a folder, with a card",
    )
    add("store", type=Path, help="a finished store of runs, e.g. runs/study")
    add("--to", type=Path, required=True, metavar="FOLDER", help="a new or empty folder")
    add("--overwrite", action="store_true", help="replace weights that were exported there before")
    report = group("report", "check", "build", "fill")
    add = verb(
        report,
        "check",
        "s3e.report.manifest:check",
        "say which figures and tables were edited, are missing or made by older code",
    )
    add("folders", type=Path, nargs="*", metavar="FOLDER", help="default: those that are published")
    add("--strict", action="store_true", help="fail on what older code or settings made, too")
    add = verb(
        report, "build", build_report, "put a folder of figures and tables into one HTML file"
    )
    add("folder", type=Path, nargs="?", metavar="FOLDER", help="default: figures/study")
    verb(
        report, "fill", "s3e.report.manifest:fill", "write results from files into README and docs"
    )
    add = verb(verbs, "info", info, "print networks, parameters and multiply-adds of a profile")
    add("--profile", choices=list(PROFILES), default="laptop", help="default: laptop")
    text = "count the vocabulary of these data (default: the profile's)"
    add("--data", metavar="FOLDER", help=text)
    add(*_SETTINGS, **_MANY, help="as in run_all.py")
    return root


_SETTINGS, _MANY = (
    ("--set",),
    {
        "dest": "settings",
        "nargs": "+",
        "action": "extend",
        "default": [],
        "metavar": "NAME=VALUE",
    },
)
_JOBS = {"type": int, "default": 0, "metavar": "N", "help": "processes; 0, the default: one a core"}


def _photo_verbs(verbs: Any, verb: Callable) -> None:
    def photos(add: Callable, results: bool) -> None:
        add("photos", type=Path, nargs="+", metavar="PHOTO", help="photos, or folders of photos")
        if results:
            text = "the folder for the results; other results inside a folder named as PHOTO are read as photos"
            add("-o", "--output", type=Path, required=True, metavar="DIR", help=text)
            add("--overwrite", action="store_true", help="replace files that are there already")

    def weights(add: Callable) -> None:
        text = "a finished store of runs such as runs/laptop, or an exported folder; default: the demonstration weights"
        add("--weights", type=Path, metavar="PATH", help=text)

    add = verb(
        verbs, "deblur", "s3e.inference.restorer:deblur_photos", "restore photos of any size",
        "Large photos are restored in overlapping tiles; a smaller --tile needs less memory.",
    )  # fmt: skip
    photos(add, results=True)
    weights(add)
    add("--variant", "--arm", choices=("full", "baseline"), default="full", help="default: full")
    text = "print the {}, and write it to NAME.json; by the reader whose tree guides the restoration ('full')"
    add("--caption", action="store_true", help=text.format("caption"))
    add("--tree", action="store_true", help=text.format("S3-tree"))
    text = "side of a tile in pixels; 0: the photo in one piece"
    add("--tile", type=int, metavar="N", help=text)

    add = verb(
        verbs, "blur", "s3e.inference.photos:blur_photos", "blur photos by a random camera shake",
        "What is not given of a path of one's own is that of the severity 'moderate'.",
    )  # fmt: skip
    photos(add, results=True)
    text = "a named severity; default: moderate"
    add("--severity", choices=("light", "moderate", "severe"), help=text)
    add("--length", type=_between(0.001, 4), help="of the camera's path, in shorter sides")
    text = "how often the camera changes direction: a larger one curls the path up and blurs less; the severities use "
    add("--exploration", type=_between(0, 1), help=text + "0.003 to 0.01")
    add("--exposure", type=_between(0.001, 1), help="the share of the path that is seen")
    text = "of the sensor, its deviation; white is 1"
    add("--noise", type=_between(0, 0.5), default=0.0, help=text)
    add("--seed", type=int, default=0, help="another shake for the same photo; default: 0")

    add = verb(
        verbs, "caption", "s3e.inference.restorer:caption_photos", "print captions and trees of photos",
        "The reader is the captioner, which knows sharp photos as well as blurred ones; where the weights have none, it "
        "is 'full', the reader of deblur, trained on blurred photos.",
    )  # fmt: skip
    photos(add, results=False)
    weights(add)
    add("--tree", action="store_true", help="the S3-tree, too")
    add("--json", type=Path, metavar="FILE", help="write everything to a new file")


def _data_verbs(verbs: Any, verb: Callable) -> None:
    subset = {"choices": choices(Data, "subset"), "help": "GoPro: which blurred frames"}
    add = verb(
        verbs, "check", "s3e.data.prepare:check",
        "say what a data folder holds, and which of its files are broken",
    )  # fmt: skip
    add("root", type=Path, metavar="ROOT", help="the data folder")
    add("--subset", **subset, default="blur")
    add("--jobs", **_JOBS)
    add("--skip-broken", action="store_true", help="broken files are reported, but allowed")

    add = verb(
        verbs, "prepare", "s3e.data.prepare:prepare",
        "decode, resize and blur a data folder once, into a cache",
    )  # fmt: skip
    add("root", type=Path, metavar="ROOT", help="the data folder")
    text = "prepare what the pipeline reads under this profile (default: all)"
    add("--profile", choices=list(PROFILES), help=text)
    add("--size", type=int, choices=choices(Data, "size"), help="side of the photos in pixels")
    text = "of the training photos (validation and test come in all)"
    add("--severity", choices=choices(Blur, "severity"), help=text)
    add("--subset", **subset)
    add(*_SETTINGS, **_MANY, help="e.g. blur.gamma=2.2")
    add("--jobs", **_JOBS)
    add("--skip-broken", action="store_true", help="report broken files and leave them out")
    text = "where the cache goes (default: a folder of its own in runs/cache)"
    add("--out", type=Path, metavar="FOLDER", help=text)

    add = verb(
        verbs, "download", "s3e.data.download:download",
        "fetch MSCOCO or GoPro from its official address",
    )  # fmt: skip
    add("dataset", choices=("coco", "gopro"), help="what to fetch")
    add("--to", type=Path, metavar="FOLDER", help="where to (default: runs/data/DATASET)")
    add("--only", nargs="+", default=(), metavar="NAME", help="only these archives")
    text = "take the archives from this address instead, a mirror"
    add("--base-url", metavar="URL", help=text)
    add("--archive", type=Path, metavar="FILE", help="unpack this archive, fetched by hand")


def _between(low: float, high: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
        return value

    return number


def build_report(folder: Path | None) -> int:
    """`report build`: write the report and say where it is."""
    from s3e.report.manifest import build

    path = build(folder or FIGURES / "study")
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


def info(profile: str, data: str | None, settings: list[str]) -> int:
    """`info`: networks of a profile with parameters, multiply-adds and the shapes of their results."""
    from tabulate import tabulate

    overrides = dict(parse_setting(text) for text in settings)
    missing = data is None and PROFILES[profile].get("data", {}).get("source") == ""
    config = load_config(profile, "." if missing else data or "scenes", overrides=overrides)
    sizes, origin = assumed(config) if missing else counted(config)
    words, entities, relations = (
        len(item) for item in (sizes.words, sizes.labels.entities, sizes.labels.relations)
    )
    side, runtime = config.data.size, config.runtime
    print(f"profile     {profile}, images of {side} x {side} pixels")
    print(f"runtime     {runtime.device} x {runtime.devices}, precision {runtime.precision}")
    print(f"vocabulary  {words:,} words, {entities:,} entities, {relations:,} relations, {origin}")
    for text in config.fallbacks():
        print(f"fallback    {text}")
    rows = [
        (name, f"{parameters:,}", f"{macs / 1e9:.3f} G", " x ".join(map(str, shape)))
        for name, parameters, macs, shape in network_costs(config, sizes)
    ]
    headers, align = ("network", "parameters", "multiply-adds", "result"), ("left", *["right"] * 2)
    print("\n" + tabulate(rows, headers, "simple", disable_numparse=True, colalign=align))
    print(
        "\nMultiply-adds of convolutions and matrix products, as torch.utils.flop_counter counts them, halved: one image "
        "forward,\nthe decoder over a caption of full length, the embedding as what it adds to the generator."
    )
    return 0


def assumed(config: Config) -> tuple[SimpleNamespace, str]:
    """Vocabularies for data that are not there: as large as the settings allow, MSCOCO's number of words; and why."""
    text = config.text
    labels = SimpleNamespace(  # NULL is one more
        entities=range(text.entities + 1), relations=range(text.relations + 1)
    )
    origin = "assumed: text.entities, text.relations and MSCOCO's words"
    return SimpleNamespace(words=range(COCO_WORDS), labels=labels, categories=()), origin


def counted(config: Config) -> tuple[SimpleNamespace, str]:
    """Vocabularies of the training captions, or of the study that data without captions name; and whose they are."""
    from s3e.captions.parser import parse_caption
    from s3e.captions.tree import TreeVocabulary, Vocabulary
    from s3e.data.corpus import read_vocabulary
    from s3e.data.prepare import plan
    from s3e.data.readers import open_source
    from s3e.data.scenes import CATEGORIES, make_split

    data, text = config.data, config.text
    if scenes := data.source == "scenes":  # captions are the same at every size
        photos = make_split("train", data.train, size=32, seed=data.seed)
    else:
        source = open_source(data.source, data.subset, data.skip_broken)
        if not source.captioned and not config.semantics_from:
            return assumed(config)
        if not source.captioned:
            words, labels, _ = read_vocabulary(Path(config.semantics_from, "01_data_blurring/all"))
            sizes = SimpleNamespace(words=words, labels=labels, categories=())
            return sizes, f"of {config.semantics_from}"
        photos = plan(source, config)["train"].photos
    captions = [caption for photo in photos for caption in photo.captions]
    words = Vocabulary.build(captions, text.min_count)
    labels = TreeVocabulary.build(
        map(parse_caption, captions), text.entities, text.relations, text.label_min_count
    )
    sizes = SimpleNamespace(words=words, labels=labels, categories=CATEGORIES if scenes else ())
    return sizes, f"counted in the training captions of {data.source}"


def network_costs(config: Config, sizes: Any) -> list[NetworkCost]:
    """Name, parameters, multiply-adds and shape of the result (without the batch) of each network of S3E-Deblur.

    `sizes`: anything with the vocabularies of a `Corpus`. Nothing is computed: tensors have shapes and no values.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from s3e.data.corpus import Batch
    from s3e.models.build import build_critic, build_generator, build_model
    from s3e.models.encoders import vgg_features
    from s3e.models.tree import NODES

    def cost(name: str, network: torch.nn.Module, *inputs: torch.Tensor, **options: int) -> tuple:
        with FlopCounterMode(display=False) as counter:
            result = network.eval()(*inputs, **options)
        result = getattr(result, "maps", result)
        parameters = sum(item.numel() for item in network.parameters())
        return name, parameters, counter.get_total_flops() // 2, tuple(result.shape[1:])

    model_settings = config.model.model_copy(update={"encoder_weights": ""})
    config = config.model_copy(update={"model": model_settings})
    with torch.device("meta"), torch.no_grad():
        image = torch.zeros(1, 3, config.data.size, config.data.size)
        words = torch.zeros(1, config.text.max_words + 2).long()  # with its signs of begin and end
        nodes = torch.zeros(1, NODES).long()
        model = build_model(config, sizes, "full").eval()
        source = model.semantics
        semantics = model.read(Batch([""], image, image, words, nodes, None))
        read = words, semantics.context, semantics.items
        rows = [
            cost("generator", build_generator(config), image),
            cost("critic", build_critic(config), image),
            cost("encoder", source.encoder, image),
            cost("tree", source.tree, semantics.features),
            cost("decoder", source.decoder, *read, length=words.shape[1]),
        ]
        if config.loss.effective.perceptual:
            rows.append(cost("VGG19", vgg_features(), image))
        if model.generator.embed:
            _, parameters, macs, _ = cost("", model.generator, image, semantics.maps)
            more = parameters - rows[0][1], macs - rows[0][2]
            rows.append(("embedding", *more, tuple(semantics.maps.shape[1:])))
    return rows


_OLD = {  # until these functions are there
    "check": "s3e.data.check",
    "prepare": "s3e.data.prepare",
    "download": "s3e.data.download",
}


def _find(run: str) -> Callable:
    module, _, function = run.partition(":")
    if found := getattr(importlib.import_module(module), function, None):
        return found
    old = importlib.import_module(_OLD[function])
    return lambda **given: old.execute(argparse.Namespace(**given, set=given.get("settings", [])))


def main(command: list[str] | None = None) -> int:
    """Run one command; an `S3EError` is printed as one line and gives exit code 2."""
    try:
        arguments = vars(parser().parse_args(command))
        run = arguments.pop("run")
        if isinstance(run, str):
            run = _find(run)
        code = run(**arguments)
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
