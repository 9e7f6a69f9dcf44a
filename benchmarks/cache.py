"""How fast the prepared cache is read, on one core: `python benchmarks/cache.py [--photos 4000]
[--size 128]`.

Random rows in batches, as training draws them: uint8 photos of one view, uint8 photos of the sharp
and the blurred view, and whole training batches of both (float32 tensors). From memory (files read
before), and from the disk (the system was told to forget these files before each pass; what lies
beneath it may still remember them). The photos are noise: an array takes as long to read whatever
it shows.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np  # noqa: E402
import torch  # noqa: E402

from s3e.data.corpus import Split  # noqa: E402
from s3e.utils import rng  # noqa: E402

BATCH = 16
NEEDED = 5_000  # photos of 128 pixels a second


def write(folder: Path, count: int, size: int) -> None:
    """Generated photos in two views, in arrays as the cache has them."""
    for view in ("sharp", "severe"):
        array = np.lib.format.open_memmap(
            folder / f"{view}.npy", "w+", np.uint8, (count, size, size, 3)
        )
        for start in range(0, count, 500):
            part = array[start : start + 500]
            part[:] = rng("benchmark", view, start).integers(0, 256, part.shape, dtype=np.uint8)
        array.flush()


def open_split(folder: Path) -> Split:
    """The arrays as a split without captions."""
    sharp, severe = (np.load(folder / f"{view}.npy", mmap_mode="r") for view in ("sharp", "severe"))
    numbers, words = {"severe": [0.0] * len(sharp)}, torch.zeros(len(sharp), 1, 1, dtype=torch.long)
    trees, ids = words.expand(len(sharp), 1, 7), [str(i) for i in range(len(sharp))]
    none = [[]] * len(ids)
    return Split(
        "train",
        ids,
        none,
        none,
        sharp,
        {"severe": severe},
        numbers,
        numbers,
        words,
        trees,
        trees[:, 0],
        None,
    )


def forget(folder: Path) -> None:
    """Take the files of `folder` out of the page cache, where the system can (nothing may have them
    mapped).
    """
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def photos(split: Split, step: int, rows: np.ndarray) -> int:
    return len(split.sharp[rows])


def pairs(split: Split, step: int, rows: np.ndarray) -> int:
    return len(split.sharp[rows]) + len(split.blurred["severe"][rows])


def batches(split: Split, step: int, rows: np.ndarray) -> int:
    batch = split.draw(len(rows), "severe", step, "benchmark")
    return len(batch.sharp) + len(batch.blurred)


READS = {
    "uint8, one view": photos,
    "uint8, sharp and blurred": pairs,
    "training tensors of both": batches,
}


def measure(
    folder: Path, read: Callable[[Split, int, np.ndarray], int], repeats: int, *, cold: bool
) -> float:
    """Photos a second: the median of some passes over all photos in random order."""
    speeds = []
    for _ in range(repeats):
        if cold:
            forget(folder)
        split = open_split(folder)
        order = rng("order").permutation(len(split))
        begin = time.perf_counter()
        count = sum(
            read(split, i // BATCH, order[i : i + BATCH]) for i in range(0, len(order), BATCH)
        )
        speeds.append(count / (time.perf_counter() - begin))
    return float(np.median(speeds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=4000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, help="where the files go (default: a temporary folder)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        write(Path(name), arguments.photos, arguments.size)
        print(
            f"photos of {arguments.size} px a second, of {arguments.photos}, in batches of {BATCH},"
            " on one core:"
        )
        for what, read in READS.items():
            warm, cold = (
                measure(Path(name), read, arguments.repeats, cold=cold) for cold in (False, True)
            )
            print(f"{what:>26}: {warm:9,.0f} from memory {cold:9,.0f} from the disk")
        print(f"needed: {NEEDED:,} photos of 128 px")


if __name__ == "__main__":
    main()
