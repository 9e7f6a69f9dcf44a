"""Whether a photo's restoration fits into memory, told before it begins."""

import math
import re
from itertools import product
from pathlib import Path

from s3e.inference.tiles import cut
from s3e.utils import S3EError

FLOAT = 4  # bytes of a number
IMAGES = 6  # channels of the photo before and after
WORKING = 4  # times a network's width, at full resolution: what a tile holds while it is computed
WAITING = 2  # what all tiles hold that wait for the photo's means, the one before and the one that follows


def needed(shape: tuple[int, int], width: int, margin: int, tile: int, statistics: str) -> int:
    """About how many bytes `run_tiled` takes for a photo of `shape` (H, W); less sure below three megapixels.

    `width`: channels of the network at full resolution; `margin`: its halo; `tile`, `statistics`: see `run_tiled`.
    """
    height, wide = (
        [last - first for first, last, *_ in cut(side, tile or side, margin)] for side in shape
    )
    areas = [rows * columns for rows, columns in product(height, wide)]
    waiting = WAITING * sum(areas) if statistics == "whole" else 0
    return FLOAT * (IMAGES * math.prod(shape) + width * max(WORKING * max(areas), waiting))


def available() -> float:
    """Bytes that programs can still have; infinite where the system does not tell (no /proc/meminfo)."""
    try:
        found = re.search(
            r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8")
        )
    except OSError:
        found = None
    return 1024 * int(found[1]) if found else math.inf


def check(shape: tuple[int, int], wanted: int) -> None:
    """Raise `S3EError` if `wanted` bytes for a photo of `shape` (H, W) are more than what is free."""
    free = available()
    if wanted > free:
        raise S3EError(
            f"{shape[1]} x {shape[0]} pixels need about {wanted / 2**30:.1f} GiB of memory and {free / 2**30:.1f} are "
            "free: use statistics='tile' (--statistics tile) and a smaller tile (--tile), or scale the photo down."
        )
