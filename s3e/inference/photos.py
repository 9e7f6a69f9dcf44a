"""Photos in and out of files, and what commands over many photos share: finding them, naming
results, one line an error.

Decoding and its checks are those of `s3e.data.photos`.
"""

import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

from s3e.blur import (
    SEVERITIES,
    blur_batch,
    blur_image,
    exposed,
    extent,
    kernel_for,
    psf,
    trajectories,
)  # fmt: skip
from s3e.data.photos import decode
from s3e.data.readers import is_photo, walk
from s3e.evaluation.images import to_uint8
from s3e.utils import S3EError, atomic_write, out_of_memory, rng

SAVED = {  # extension -> Pillow's options; BMP and PPM hold neither EXIF nor a profile
    ".jpg": {"quality": 95, "subsampling": 0},
    ".jpeg": {"quality": 95, "subsampling": 0},
    ".png": {},
    ".webp": {"quality": 95},
    ".tif": {},
    ".tiff": {},
    ".bmp": {},
    ".ppm": {},
}
LAYOUT = {  # TIFF tags about how the pixels of the old file are stored
    *range(254, 260),
    262,
    266,
    273,
    *range(277, 280),
    284,
    *range(317, 326),
    330,
    338,
    339,
    347,
    *range(529, 533),
    700,
    33723,
    34377,
    34675,
}
KERNEL = ".kernel.png"  # end of the name of a kernel, beside the photo that `blur` made by it
PATH = {  # a camera path where nothing else is said: the middle of the moderate severity
    "length": SEVERITIES["moderate"].length_ratio,
    "exploration": float(np.median(SEVERITIES["moderate"].explorations)),
    "exposure": float(np.median(SEVERITIES["moderate"].fractions)),
}


class Photograph(NamedTuple):
    """A photo and what its file says about it.

    `pixels`: uint8 (H, W, 3), upright RGB; `exif`: the file's EXIF with orientation 1, `icc`: its
    RGB colour profile (None: it has none); `notes`: what was converted or is left out.
    """

    pixels: np.ndarray
    path: Path
    exif: bytes | None
    icc: bytes | None
    notes: tuple[str, ...]


def read_photo(path: Path | str) -> Photograph:
    """Read a photo of any usual kind. Grey and CMYK with a colour profile are converted to sRGB by
    it.

    Raises `S3EError` as `s3e.data.photos.decode` (broken, cut, too small, larger than 80
    megapixels).
    """
    upright, size, notes = decode(path)
    pixels = np.asarray(upright)
    with warnings.catch_warnings(), Image.open(path) as image:
        warnings.simplefilter("ignore")  # odd EXIF; what matters was checked by `decode`
        icc, converted = _profile(image, notes)
        exif = _exif(image, size, notes)
    pixels = pixels if converted is None else converted
    return Photograph(pixels, Path(path), exif, icc, tuple(notes))


def _exif(image: Image.Image, size: tuple[int, int], notes: list[str]) -> bytes | None:
    """The photo's EXIF for the upright photo of `size` (width, height), without its thumbnail."""
    try:
        exif = image.getexif()
        for tag in LAYOUT:
            exif.pop(tag, None)
        if not exif:
            return None
        exif[ExifTags.Base.Orientation] = 1
        details, base = exif.get_ifd(ExifTags.IFD.Exif), ExifTags.Base
        for tag, side in zip((base.ExifImageWidth, base.ExifImageHeight), size, strict=True):
            if tag in details:
                details[tag] = side
        return exif.tobytes()
    except Exception:  # EXIF that cannot be parsed does not make the photo worse
        notes.append("EXIF cannot be read, left out")
        return None


def _profile(image: Image.Image, notes: list[str]) -> tuple[bytes | None, np.ndarray | None]:
    """The colour profile where it is one of RGB; otherwise the photo in sRGB, uint8 (H, W, 3), if
    it can be made.
    """
    data = image.info.get("icc_profile")
    if not data:
        return None, None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        if profile.profile.xcolor_space == "RGB " and image.mode not in ("CMYK", "LAB"):
            return data, None
        srgb = ImageCms.createProfile("sRGB")
        upright = ImageOps.exif_transpose(image)
        converted = ImageCms.profileToProfile(upright, profile, srgb, outputMode="RGB")
    except Exception:  # a damaged profile, or one of another kind, does not make the photo worse
        notes.append("colour profile does not fit, left out")
        return None, None
    notes.append("converted to sRGB by its colour profile")
    return None, np.asarray(converted)


def write_photo(pixels: np.ndarray, like: Photograph, path: Path | str) -> None:
    """Write uint8 (H, W, 3) in the format of the extension, whole or not at all, with what `like`
    says about itself.

    JPEG: quality 95, full colour resolution; BMP and PPM hold pixels only. Raises `S3EError` for an
    unknown extension or where the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in SAVED:
        known = ", ".join(SAVED)
        raise S3EError(f"{path}: photos are not written as '{path.suffix}'; choose one of {known}.")
    about = SAVED[path.suffix.lower()] | {"exif": like.exif or b"", "icc_profile": like.icc}
    try:
        with atomic_write(path) as temporary:
            Image.fromarray(pixels).save(temporary, **about)
    except (OSError, ValueError) as error:  # the disk; too long a side or EXIF for the format
        reason = getattr(error, "strerror", None) or error
        remedy = "name another folder, or make the photo a PNG"
        raise S3EError(f"{path} cannot be written ({reason}): {remedy}.") from None


class Job(NamedTuple):
    """A photo, the file for its result, and the files beside it."""

    photo: Path
    result: Path
    beside: list[Path]


def find_photos(named: Sequence[Path], output: Path | None = None) -> tuple[list[Path], list[str]]:
    """The photos that are named, each once, those of folders sorted; and what is wrong with a
    folder.

    In a folder, results in `output` and kernels beside their photos are left out. Raises `S3EError`
    for a path that does not exist and where nothing is left.
    """
    if missing := [path for path in named if not path.exists()]:
        share = f"{len(missing)} of {len(named)}"
        raise S3EError(f"{missing[0]} does not exist ({share}): correct the path.")
    found: dict[str, Path] = {}
    problems: list[str] = []
    for path in named:
        files = [path]
        if path.is_dir():
            tree, root = walk(path), path.resolve()
            problems += map(str, tree.problems)
            files = [place / name for place, names in tree.files.items() for name in names]
            files = [file for file in files if is_photo(file.name)]
            made = {file.with_name(file.stem + KERNEL) for file in files}
            files = [file for file in files if file not in made]
            if output and root in output.resolve().parents:
                inside = str(output.resolve()) + os.sep
                files = [file for file in files if not os.path.realpath(file).startswith(inside)]
        for file in files:
            found.setdefault(os.path.realpath(file), file)
    if not found:
        names = ", ".join(map(str, named))
        raise S3EError(f"{names}: no photo there; name photos or a folder that holds some.")
    return list(found.values()), problems


def plan_results(photos: Sequence[Path], folder: Path, beside: Sequence[str] = ()) -> list[Job]:
    """Files for the results in `folder`: the photo's name, numbered if another photo has it (a.jpg,
    a-2.jpg).

    `beside`: ends of the names of further files (a + ".json"). A photo in a format that is not
    written becomes a PNG. Raises `S3EError` if a result would replace one of the photos, or cannot
    be written into `folder`.
    """
    check_folder(folder)
    inputs = {_identity(photo): photo for photo in photos}
    taken: set[str] = set()
    jobs = []
    for photo in photos:
        end = photo.suffix if photo.suffix.lower() in SAVED else ".png"
        for number in count(1):
            stem = photo.stem if number == 1 else f"{photo.stem}-{number}"
            files = [folder / (stem + more) for more in (end, *beside)]
            if taken.isdisjoint(file.name.lower() for file in files):
                break
        taken |= {file.name.lower() for file in files}
        if lost := [inputs[_identity(file)] for file in files if _identity(file) in inputs]:
            raise S3EError(f"{lost[0]} would be replaced by a result: give another folder with -o.")
        jobs.append(Job(photo, files[0], files[1:]))
    return jobs


def _identity(path: Path) -> tuple[int, int] | str:
    """The file itself, whatever it is called."""
    try:
        facts = path.stat()
    except OSError:
        return str(path)
    return facts.st_dev, facts.st_ino


def check_folder(folder: Path) -> None:
    """Raise `S3EError` unless files can be written into `folder`, which need not exist yet."""
    folder = folder.absolute()
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise S3EError(f"{there} is no folder: name another one for the results.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise S3EError(f"{there} may not be written to: name another folder for the results.")


def check_free(job: Job, overwrite: bool) -> None:
    """Raise `S3EError` if a file of the job is there and may not be replaced."""
    there = [file for file in (job.result, *job.beside) if os.path.lexists(file)]
    if there and not overwrite:
        remedy = "add --overwrite or another -o"
        raise S3EError(f"{there[0]} is there already, so {job.photo} is left out: {remedy}.")


def for_each(items: Sequence, work: Callable, problems: Sequence[str] = ()) -> int:
    """Do `work` on each item, a photo or a `Job`; what goes wrong becomes a line on stderr and the
    next one is done.

    Returns 1 if there was anything (`problems` included), else 0. Ctrl-C ends it and says how far
    it came.
    """
    for problem in problems:
        say(problem)
    total, done = len(items) + len(problems), 0
    try:
        for item in items:
            try:
                work(item)
                done += 1
            except BrokenPipeError:  # not the photo: nobody reads what is printed
                raise
            except (S3EError, OSError, MemoryError, RuntimeError) as error:
                say(_explained(item.photo if isinstance(item, Job) else item, error))
    except KeyboardInterrupt:
        far = f"interrupted: {done} of {total} photos done; no file is half written"
        raise KeyboardInterrupt(far) from None
    if done < total:
        say(f"{done} of {total} photos done, the others are named above")
    return int(done < total)


def _explained(photo: Path, error: Exception) -> str:
    """What went wrong with a photo, and the remedy. A RuntimeError that is not about memory
    (torch's is) is raised.
    """
    if isinstance(error, S3EError):
        return str(error)
    if isinstance(error, OSError):
        remedy = "free space on the disk or name another folder for the results"
        return f"{photo}: {error.strerror or error}; {remedy}."
    if not out_of_memory(error):
        raise error
    return f"{photo}: too little memory; scale it down, or use deblur with a smaller --tile."


def say(line: str) -> None:
    """A line on stderr."""
    print(f"s3e: {line}", file=sys.stderr, flush=True)


def shake(
    photo: np.ndarray, length: float, exploration: float, exposure: float, noise: float, key: tuple
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Blur a photo, uint8 (H, W, 3), by a path drawn from `key`: blurred photo, kernel, path, its
    exposed part.

    `length` in shorter sides, `noise`: standard deviation in units of white; paths: complex, pixels
    (specification 3.7).
    """
    path = trajectories(1, length * min(photo.shape[:2]), exploration, rng(*key))[0]
    seen = exposed(path, exposure)
    kernel, noisy = psf(seen), rng("noise", *key)
    blurred = blur_image(photo / np.float32(255), kernel, sigma=noise, generator=noisy)
    return to_uint8(blurred, 0.0), kernel, path, seen


def blur_photos(
    photos: Sequence[Path], output: Path, overwrite: bool = False, severity: str | None = None,
    length: float | None = None, exploration: float | None = None, exposure: float | None = None,
    noise: float = 0.0, seed: int = 0,
) -> int:  # fmt: skip
    """`python -m s3e blur`: blur photos by a named severity or a path of one's own, and write the
    kernels.

    Returns 0, or 1 where a photo could not be done. Raises `S3EError` for a wrong request, before
    any work.
    """
    given = {"length": length, "exploration": exploration, "exposure": exposure}
    own = {name: value for name, value in given.items() if value is not None}
    if own and severity:
        both = ", --".join(own)
        raise S3EError(f"--severity and --{both} say the same in two ways: leave one out.")
    found, problems = find_photos(photos, output)
    named = severity or "moderate"

    def blur(job: Job) -> None:
        check_free(job, overwrite)
        photo, name = read_photo(job.photo), job.photo.name
        if own:
            settings = PATH | own | {"noise": noise}
            blurred, kernel, _, seen = shake(
                photo.pixels, **settings, key=("blur command", seed, name)
            )
            wide = extent(seen)
        else:
            kernel = kernel_for(name, named, min(photo.pixels.shape[:2]), seed)
            many, extents = blur_batch(photo.pixels[None], [name], named, seed, sigma=noise)
            blurred, wide = many[0], extents[0]
        write_photo(blurred, photo, job.result)
        grey = np.rint(kernel / kernel.max() * 65535).astype(np.uint16)
        with atomic_write(job.beside[0]) as temporary:
            Image.fromarray(grey).save(temporary, "PNG")
        print(f"{job.result}  extent {wide:.1f} px", flush=True)

    return for_each(plan_results(found, output, [KERNEL]), blur, problems)
