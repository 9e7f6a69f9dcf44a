"""Distinct captions parsed a second on one core.

    python benchmarks/parsing.py                                 the built-in scenes
    python benchmarks/parsing.py --captions TRAIN                captions of a COCO JSON file

No caption is parsed twice in a round and no result is kept; the first round also meets every word
for the first time.
"""

import argparse
import json
import time
from collections.abc import Sequence

from s3e.captions.parser import parse_caption
from s3e.data.scenes import make_split
from s3e.utils import S3EError

REQUIRED = 5000
ROUNDS = 3


def distinct(captions: Sequence[str]) -> list[str]:
    """The captions without repetitions, in order."""
    return list(dict.fromkeys(captions))


def read_captions(path: str) -> list[str]:
    """Distinct captions of a COCO captions file. S3EError: it cannot be read or is no such file."""
    try:
        with open(path, encoding="utf-8") as file:
            return distinct([record["caption"] for record in json.load(file)["annotations"]])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise S3EError(
            f"{path} is no COCO captions file ({error!r}); give an annotations/captions_*.json."
        ) from error


def scene_captions(split: str, count: int) -> list[str]:
    """Distinct captions of `count` built-in scenes."""
    return distinct(
        [caption for scene in make_split(split, count, size=32) for caption in scene.captions]
    )


def rate(captions: Sequence[str]) -> tuple[float, float]:
    """Captions parsed a second: by processor time of this process, by the clock."""
    processor, clock = time.process_time(), time.perf_counter()
    for caption in captions:
        parse_caption(caption)
    return len(captions) / (time.process_time() - processor), len(captions) / (
        time.perf_counter() - clock
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--captions", metavar="TRAIN", help="COCO captions (JSON) instead of the scenes'"
    )
    chosen = parser.parse_args()
    train = read_captions(chosen.captions) if chosen.captions else scene_captions("train", 1000)
    for round_ in range(ROUNDS):
        processor, clock = rate(train)
        first = " (every word met for the first time)" if not round_ else ""
        print(
            f"{processor:8,.0f} captions a second of processor time, {clock:8,.0f} by the"
            f" clock{first}"
        )
    print(f"{len(train):,} distinct captions; at least {REQUIRED:,} a second are required")


if __name__ == "__main__":
    try:
        main()
    except S3EError as error:
        raise SystemExit(str(error)) from None
