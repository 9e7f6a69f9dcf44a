"""`python -m s3e info --profile NAME`: networks with parameters and multiply-adds, trainings with memory and time.

Nothing is trained (see `s3e.costs`); the times follow from a short measurement of this machine. Exit codes: 0 printed,
2 the settings or the data folder cannot be used.
"""

import os
import tempfile
import textwrap
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tabulate import tabulate
from tqdm import tqdm

from s3e.config import PROFILES, Config, load_config, parse_setting
from s3e.costs import Meter, NetworkCost, TrainingCost, network_costs, training_costs
from s3e.data.corpus import read_vocabulary
from s3e.data.prepare import parse_all, plan, write_vocabulary
from s3e.data.readers import open_source
from s3e.data.scenes import CATEGORIES, make_split
from s3e.models.build import build_generator
from s3e.training.loop import Engine
from s3e.utils import S3EError, seed_everything, set_threads

COCO_WORDS = (
    9_490  # MSCOCO, Karpathy's training captions, words that occur at most five times left out
)
PIXELS = 2**16  # of the photos with which a CPU is measured
UNITS = {"d": 86_400, "h": 3_600, "min": 60, "s": 1, "ms": 1e-3}
NOTES = {
    "multiply-adds": "of convolutions and matrix products, as torch.utils.flop_counter counts them, halved. Networks: "
    "one photo forward, the decoder over a caption of full length, the embedding as what it adds to the generator. "
    "Trainings: an update forward and backward, critic and double backward of the gradient penalty included",
    "memory": "an estimate, on one device: all tensors of an update by their shapes, with weights, gradients, Adam's "
    "moments and averaged weights (states: without gradients). The program and its libraries come on top",
}


@dataclass(frozen=True)
class Vocabularies:
    """What sizes of networks depend on, as `Corpus` has it; `origin` says where it comes from."""

    words: Sized
    labels: Any  # with `entities` and `relations`
    categories: Sequence[str]
    captioned: bool
    origin: str


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--profile", choices=list(PROFILES), default="laptop", help="default: laptop"
    )
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help="count the vocabulary of these data (default: the profile's)",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="as in run_all.py",
    )


def execute(arguments: Namespace) -> int:
    """Print the report. Raises `S3EError` for settings or a data folder that cannot be used."""
    overrides = dict(parse_setting(text) for text in arguments.set)
    missing = (
        arguments.data is None and PROFILES[arguments.profile].get("data", {}).get("source") == ""
    )
    data = (
        os.curdir if missing else arguments.data or "scenes"
    )  # any folder will do where nothing is read
    config = load_config(arguments.profile, data, overrides=overrides)
    sizes = assumed(config) if missing else counted(config, overrides)
    for label, text in facts(config, sizes):
        print(f"{label:<12}{text}")
    print("\n" + networks_table(network_costs(config, sizes)))
    trainings, speed = training_costs(config, sizes), rate(config)
    print("\n" + trainings_table(trainings, config, speed) + "\n")
    for label, text in (NOTES | {"time": time_note(config, speed)}).items():
        print(textwrap.fill(f"{label}: {text}.", 110))
    return 0


def facts(config: Config, sizes: Vocabularies) -> Iterator[tuple[str, str]]:
    """What the report is about: (label, text)."""
    runtime, labels = config.runtime, sizes.labels
    yield "profile", f"{config.profile}, photos of {config.data.size} x {config.data.size} pixels"
    yield (
        "runtime",
        f"{runtime.device} x {runtime.devices}, {runtime.threads} threads, precision {runtime.precision}",
    )
    counts = f"{len(sizes.words):,} words, {len(labels.entities):,} entities, {len(labels.relations):,} relations"
    yield "vocabulary", f"{counts}, {sizes.origin}"
    for text in config.fallbacks():
        yield "fallback", text


def assumed(config: Config) -> Vocabularies:
    """Vocabularies for photographs that are not there: as large as the settings allow, MSCOCO's number of words."""
    limits = {
        name: range(getattr(config.text, name) + 1) for name in ("entities", "relations")
    }  # NULL is one more
    origin = "assumed: text.entities, text.relations and MSCOCO's words (no --data)"
    return Vocabularies(range(COCO_WORDS), SimpleNamespace(**limits), (), True, origin)


def counted(config: Config, overrides: dict[str, Any]) -> Vocabularies:
    """Vocabularies of the training captions, or of those from which the tree is borrowed."""
    data = config.data
    categories = CATEGORIES if data.source == "scenes" else ()
    if not categories and not open_source(data.source, data.subset, data.skip_broken).captioned:
        if not config.semantics_from:
            raise S3EError(
                f"{data.source} has no captions: name the store of a finished study that has some "
                "(--set semantics_from=runs/laptop)."
            )
        store = Path(config.semantics_from)
        words, labels = read_vocabulary(store / "01_data_blurring" / "all")[:2]
        return Vocabularies(words, labels, (), False, f"those of {store}")
    words, labels = _vocabularies(config)
    origin = f"counted in the training captions of {data.source}"
    return Vocabularies(words, labels, categories, True, origin)


def _vocabularies(config: Config) -> tuple[Sized, Any]:
    data = config.data
    if data.source == "scenes":
        photos = make_split(
            "train", data.train, size=32, seed=data.seed
        )  # captions are the same at every size
    else:
        photos = plan(open_source(data.source, data.subset, data.skip_broken), config)[
            "train"
        ].photos
    captions = [list(photo.captions) for photo in photos]
    parses = parse_all(tqdm(captions, desc="captions", leave=False))
    with tempfile.TemporaryDirectory() as folder:
        write_vocabulary(config, {"captions": captions, "parses": parses}, Path(folder))
        return read_vocabulary(folder)[:2]


def rate(config: Config) -> float | None:
    """Multiply-adds a second of this machine in the generator, forward and backward, under the settings of `runtime`.

    None where the device is not there. The best of three passes, the one before not counted.
    """
    runtime, gpu = config.runtime, config.runtime.device != "cpu"
    if gpu and not torch.cuda.is_available():
        return None
    set_threads(min(runtime.threads, os.cpu_count() or 1), torch=True)
    seed_everything("info")
    engine, generator, size = Engine(runtime), build_generator(config), config.data.size
    engine.prepare(generator)
    count = config.train_b.batch // (config.train_b.accumulate * runtime.devices)
    count = count if gpu else min(count, max(1, PIXELS // size**2))
    photos = (2 * torch.rand(count, 3, size, size) - 1).to(engine.device, engine.dtype)

    def seconds() -> float:
        begin = time.perf_counter()
        with engine.autocast():
            restored = generator(photos)
        restored.mean().backward()
        if gpu:
            torch.cuda.synchronize(engine.device)
        return time.perf_counter() - begin

    with Meter() as meter:
        seconds()
    return meter.macs / min(seconds() for _ in range(3))


def networks_table(costs: list[NetworkCost]) -> str:
    """Parameters, multiply-adds and result of every network."""
    rows = [
        (cost.name, f"{cost.parameters:,}", f"{cost.macs / 1e9:.3f} G", _shape(cost.shape))
        for cost in costs
    ]
    headers = ("network", "parameters", "multiply-adds", "result")
    return tabulate(
        rows, headers, "simple", disable_numparse=True, colalign=("left", "right", "right", "left")
    )


def _shape(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))


def trainings_table(costs: list[TrainingCost], config: Config, speed: float | None) -> str:
    """Updates, multiply-adds, memory and, where the device's `speed` is known, time of every training."""
    rows = []
    for cost in costs:
        settings, seconds = (
            getattr(config, cost.name),
            cost.macs / config.runtime.devices / (speed or 1),
        )
        times = (duration(seconds), duration(seconds * settings.steps)) if speed else ("-", "-")
        memory = (f"{size / 2**30:.3f} GiB" for size in (cost.states, cost.memory))
        rows.append(
            (
                cost.name,
                f"{settings.steps:,}",
                settings.batch,
                f"{cost.macs / 1e9:,.1f} G",
                *memory,
                *times,
            )
        )
    headers = (
        "training",
        "steps",
        "batch",
        "multiply-adds",
        "states",
        "memory",
        "an update",
        "in all",
    )
    return tabulate(
        rows, headers, "simple", disable_numparse=True, colalign=("left", *["right"] * 7)
    )


def time_note(config: Config, speed: float | None) -> str:
    """Where the times come from, in a sentence without a full stop."""
    device = config.runtime.device
    if speed is None:
        return f"not known, for the device of this profile ({device}) is not here; divide multiply-adds by its rate"
    return (
        f"estimate from {speed / 1e9:,.1f} G multiply-adds a second, measured now on this machine ({device}) in the "
        "generator forward and backward. Reading data, optimizers and validation are left out"
    )


def duration(seconds: float) -> str:
    """Seconds in the largest unit that leaves at least two of it."""
    unit = next((unit for unit, size in UNITS.items() if seconds >= 2 * size), "ms")
    return f"{seconds / UNITS[unit]:.3g} {unit}"
