"""`python -m s3e deblur` on a large photo: `python benchmarks/deblur.py [--threads 2]`.

scikit-image's astronaut, enlarged to 4000 x 3000 pixels with some noise, as JPEG, through the command as a process of
its own: seconds and the most memory that it held. Then how far tiles are from one piece, in steps of 1/255, at 2048 x
1536 pixels: with means over the whole photo (it must be less than one step) and with each tile's own.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--threads", type=int, default=2)
arguments = parser.parse_args()
os.environ.update(OMP_NUM_THREADS=str(arguments.threads))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from s3e.data.photos import photograph  # noqa: E402
from s3e.inference import Restorer  # noqa: E402
from s3e.inference.restorer import TILE  # noqa: E402
from s3e.inference.tiles import STATISTICS, run_tiled  # noqa: E402
from s3e.utils import rng  # noqa: E402

LARGE, SMALLER = (4000, 3000), (2048, 1536)
ALLOWED = 4.0  # GiB
SIDES = (256, 768)


def enlarged(size: tuple[int, int]) -> np.ndarray:
    """The photo at `size` (width, height), uint8."""
    square = Image.fromarray(np.rint(255 * photograph("astronaut", 512)).astype(np.uint8))
    pixels = np.asarray(square.resize(size, Image.Resampling.BICUBIC, box=(0, 0, 512, 384)))
    noise = rng("benchmark", *size).normal(0, 4, pixels.shape).astype(np.float32)
    return (pixels + noise).clip(0, 255).astype(np.uint8)


def command(folder: Path, statistics: str) -> tuple[float, float]:
    """Seconds by the clock and GiB of one call of the command."""
    words = [
        "-m",
        "s3e",
        "deblur",
        folder / "photo.jpg",
        "-o",
        folder / statistics,
        "--statistics",
        statistics,
    ]
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"deblur ended with {child.returncode}: nothing was measured.")
    return time.perf_counter() - start, used.ru_maxrss / 2**20


@torch.no_grad()
def distances(restorer: Restorer, arm: str) -> None:
    """Print how far tiles of several sides are from one piece."""
    photo, network = enlarged(SMALLER), restorer.generator(arm)
    maps = restorer.read(photo).maps.flatten(1, 2) if arm == "full" else None
    image = torch.from_numpy(photo).permute(2, 0, 1)[None] / 127.5 - 1
    whole = run_tiled(network, image, maps)
    for side in SIDES:
        for statistics in STATISTICS:
            error = 127.5 * (run_tiled(network, image, maps, side, statistics) - whole).abs()
            told = f"largest {error.max():8.4f}, mean {error.mean():8.5f}"
            print(f"  {arm:<9}tiles of {side} px, means of the {statistics + ':':<7}{told}")


def main() -> None:
    torch.set_num_threads(arguments.threads)
    print(
        f"PyTorch {torch.__version__}, {arguments.threads} threads, tiles of {TILE} px where nothing else is said"
    )
    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(enlarged(LARGE)).save(Path(folder) / "photo.jpg", quality=92)
        for statistics in STATISTICS:
            seconds, memory = command(Path(folder), statistics)
            print(
                f"  {LARGE[0]} x {LARGE[1]} JPEG, means of the {statistics}: {seconds:.0f} s, {memory:.2f} GiB"
            )
            if memory > ALLOWED:
                raise SystemExit(f"{ALLOWED:g} GiB are allowed.")
    print(f"tiles less one piece, {SMALLER[0]} x {SMALLER[1]}, in steps of 1/255")
    restorer = Restorer.load()
    for arm in restorer.arms:
        distances(restorer, arm)


if __name__ == "__main__":
    main()
