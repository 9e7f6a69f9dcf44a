"""`python -m s3e blur PHOTO... -o DIR`: blur photos by a random camera shake, and write its kernels.

Exit codes: 0 all done, 1 a photo is broken or its result was there already (the others are done), 2 wrong request.
"""

from argparse import ArgumentParser, Namespace

import numpy as np
from PIL import Image

from s3e.blur import (
    SEVERITIES,
    blur_bytes,
    exposed,
    extent,
    kernels_for,
    psf,
    sensor_noise,
    trajectories,
)
from s3e.inference.commands import (
    KERNEL,
    Job,
    add_photos,
    add_results,
    between,
    check_free,
    find_photos,
    for_each,
    plan,
)
from s3e.inference.photos import read_photo, write_photo
from s3e.utils import S3EError, atomic_write, rng

SEVERITY = "moderate"
MIDDLE = SEVERITIES[SEVERITY]
PATH = {  # what is not given of a path of one's own: the middle of the severity, as in the blur laboratory
    "length": MIDDLE.length_ratio,
    "exploration": float(np.median(MIDDLE.explorations)),
    "exposure": float(np.median(MIDDLE.fractions)),
}


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    add_photos(parser)
    add_results(parser)
    parser.add_argument(
        "--severity", choices=SEVERITIES, help=f"a named severity; default: {SEVERITY}"
    )
    length, exploration, exposure = PATH.values()
    parser.add_argument(
        "--length",
        type=between(0.001, 4),
        help=f"of the camera's path, in shorter sides; default: {length}",
    )
    text = "how often the camera changes direction: a larger one curls the path up and blurs less; the severities use "
    text += f"0.003 to 0.01; default: {exploration}"
    parser.add_argument("--exploration", type=between(0, 1), help=text)
    parser.add_argument(
        "--exposure",
        type=between(0.001, 1),
        help=f"the share of the path that is seen; default: {exposure}",
    )
    parser.add_argument(
        "--noise",
        type=between(0, 0.5),
        default=0.0,
        help="of the sensor, its deviation; white is 1",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="another shake for the same photo; default: 0"
    )


def execute(arguments: Namespace) -> int:
    """Blur the photos; return 0 or 1. Raises `S3EError` for a wrong request, before anything is computed."""
    own = {name: value for name in PATH if (value := getattr(arguments, name)) is not None}
    if own and arguments.severity:
        raise S3EError(
            f"--severity and --{', --'.join(own)} say the same in two ways: leave one out."
        )
    photos, problems = find_photos(arguments.photos, arguments.output)
    jobs = plan(photos, arguments.output, [KERNEL])

    def blur(job: Job) -> None:
        check_free(job, arguments.overwrite)
        photo = read_photo(job.photo)
        size, name = min(photo.pixels.shape[:2]), job.photo.name
        if own:
            kernel, wide = _shaken(PATH | own, size, arguments.seed, name)
        else:
            kernels, extents = kernels_for(
                [name], arguments.severity or SEVERITY, size, arguments.seed
            )
            kernel, wide = kernels[0], extents[0]
        write_photo(
            _blurred(photo.pixels, kernel, arguments.noise, arguments.seed, name), photo, job.result
        )
        _write_kernel(kernel, job)
        print(f"{job.result}  extent {wide:.1f} px", flush=True)

    return for_each(jobs, blur, problems)


def _shaken(path: dict[str, float], size: int, seed: int, name: str) -> tuple[np.ndarray, float]:
    """Kernel and extent in pixels of a path with settings of one's own."""
    generator = rng("blur command", seed, name)
    whole = trajectories(1, path["length"] * size, path["exploration"], generator)[0]
    return psf(whole, path["exposure"]), extent(exposed(whole, path["exposure"]))


def _blurred(
    pixels: np.ndarray, kernel: np.ndarray, sigma: float, seed: int, name: str
) -> np.ndarray:
    noise = sensor_noise(pixels.shape, sigma, rng("noise", seed, name)) if sigma else None
    return blur_bytes(pixels, kernel, noise=noise)


def _write_kernel(kernel: np.ndarray, job: Job) -> None:
    """The kernel as 16-bit grey, its largest value white."""
    with atomic_write(job.beside[0]) as temporary:
        Image.fromarray(np.rint(kernel / kernel.max() * 65535).astype(np.uint16)).save(
            temporary, "PNG"
        )
