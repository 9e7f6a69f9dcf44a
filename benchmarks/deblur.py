"""`python -m s3e deblur` on a large photo: `python benchmarks/deblur.py [--threads 2]`.

scikit-image's astronaut, enlarged to 4000 x 3000 pixels with some noise, as JPEG, through the
command as a process of its own: seconds and the most memory that it held. Then how far tiles are
from one piece, as PSNR in dB and in steps of 1/255, at 2048 x 1536 pixels.
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
from s3e.inference.restorer import TILE, Restorer  # noqa: E402
from s3e.utils import psnr, rng  # noqa: E402

LARGE, SMALLER = (4000, 3000), (2048, 1536)
ALLOWED = 4.0  # GiB
SIDES = (512, 1024, TILE)


def enlarged(size: tuple[int, int]) -> np.ndarray:
    """The photo at `size` (width, height), uint8."""
    square = Image.fromarray(photograph("astronaut", 512))
    pixels = np.asarray(square.resize(size, Image.Resampling.BICUBIC, box=(0, 0, 512, 384)))
    noise = rng("benchmark", *size).normal(0, 4, pixels.shape).astype(np.float32)
    return (pixels + noise).clip(0, 255).astype(np.uint8)


def command(folder: Path) -> tuple[float, float]:
    """Seconds by the clock and GiB of one call of the command."""
    words = ["-m", "s3e", "deblur", folder / "photo.jpg", "-o", folder / "restored"]
    start, silent = time.perf_counter(), subprocess.DEVNULL
    child = subprocess.Popen([sys.executable, *map(str, words)], stdout=silent, stderr=silent)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"deblur ended with {child.returncode}: nothing was measured.")
    return time.perf_counter() - start, used.ru_maxrss / 2**20


def main() -> None:
    torch.set_num_threads(arguments.threads)
    print(f"PyTorch {torch.__version__}, {arguments.threads} threads, tiles of {TILE} px")
    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(enlarged(LARGE)).save(Path(folder) / "photo.jpg", quality=92)
        seconds, memory = command(Path(folder))
        print(f"  {LARGE[0]} x {LARGE[1]} JPEG: {seconds:.0f} s, {memory:.2f} GiB")
        if memory > ALLOWED:
            raise SystemExit(f"{ALLOWED:g} GiB are allowed.")
    print(f"tiles against one piece, {SMALLER[0]} x {SMALLER[1]}")
    restorer, photo = Restorer.load(), enlarged(SMALLER)
    for variant in restorer.variants:
        whole = restorer.restore(photo, variant, tile=0)
        for side in SIDES:
            tiled = restorer.restore(photo, variant, tile=side)
            apart = np.abs(tiled.astype(int) - whole)
            told = f"{psnr(tiled, whole):.2f} dB, mean {apart.mean():.2f}, largest {apart.max()}"
            print(f"  {variant:<9}tiles of {side} px: {told}", flush=True)


if __name__ == "__main__":
    main()
