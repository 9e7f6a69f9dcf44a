"""Photos in and out of files; finding many, a file for each result, one line an error."""

import io
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from PIL import ExifTags, Image, ImageCms, ImageOps

from s3e.blur import blur_batch
from s3e.data.photos import decode
from s3e.data.readers import ImageIndex
from s3e.utils import (
    S3EError,
    atomic_write,
    disk_errors,
    out_of_memory,
    say,
    tell,
    unwritable,
    write_file,
)

SAVED = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm")
KERNEL = ".kernel.npy"  # end of the name of the kernel beside the photo that `blur` made by it


class Photograph(NamedTuple):
    """A photo and what its file says about it.

    `pixels`: uint8 (H, W, 3), upright RGB; `exif` for upright pixels, `icc`: its RGB colour profile
    (None: it has none); `notes`: what was converted or is left out.
    """

    pixels: ndarray
    path: Path
    exif: bytes | None
    icc: bytes | None
    notes: tuple[str, ...]


def read_photo(path: Path | str) -> Photograph:
    """Read a photo of any usual kind; grey and CMYK with a colour profile become sRGB by it.

    Raises `S3EError` as `s3e.data.photos.decode` (broken, cut, too small, larger than 80
    megapixels).
    """
    upright, _, notes = decode(path)  # and what matters is checked
    pixels, exif = np.asarray(upright), None
    with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
        try:
            if icc := image.info.get("icc_profile"):
                profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
                if profile.profile.xcolor_space != "RGB " or image.mode in ("CMYK", "LAB"):
                    turned, srgb = ImageOps.exif_transpose(image), ImageCms.createProfile("sRGB")
                    converted = ImageCms.profileToProfile(turned, profile, srgb, outputMode="RGB")
                    pixels, icc = np.asarray(converted), None
                    notes.append("converted to sRGB by its colour profile")
        except Exception:  # a damaged profile, or one of another kind, does not make it worse
            icc = None
            notes.append("colour profile does not fit, left out")
        try:
            exif = _exif(image, pixels)
        except Exception:  # nor does EXIF that cannot be parsed
            notes.append("EXIF cannot be read, left out")
    return Photograph(pixels, Path(path), exif, icc, tuple(notes))


def _exif(image: Image.Image, pixels: ndarray) -> bytes | None:
    """The file's EXIF for upright `pixels`, without thumbnail; none of TIFF (storage is in it)."""
    exif, base = image.getexif(), ExifTags.Base
    exif.pop(base.Orientation, None)
    if not exif or image.format == "TIFF":
        return None
    details = exif.get_ifd(ExifTags.IFD.Exif)
    for tag, side in ((base.ExifImageHeight, 0), (base.ExifImageWidth, 1)):
        if tag in details:
            details[tag] = pixels.shape[side]
    return exif.tobytes()


def write_photo(pixels: ndarray, like: Photograph, path: Path | str) -> None:
    """Write uint8 (H, W, 3) in the format of the extension, with what `like` says about itself.

    JPEG: quality 95, full colour resolution; BMP and PPM hold pixels only. Raises `S3EError` for an
    unknown extension or where the file cannot be written; then there is no file.
    """
    path = Path(path)
    if path.suffix.lower() not in SAVED:
        known = ", ".join(SAVED)
        raise S3EError(f"{path}: photos are not written as '{path.suffix}'; choose one of {known}.")
    about = {"exif": like.exif or b"", "icc_profile": like.icc, "quality": 95, "subsampling": 0}
    try:
        with atomic_write(path) as temporary:
            Image.fromarray(pixels).save(temporary, **about)
    except (OSError, ValueError) as error:  # the disk; too long a side or EXIF for the format
        remedy = "name another folder, or make the photo a PNG"
        raise unwritable(path, error, remedy) from None


def plan_results(
    named: Sequence[Path], output: Path | None = None, beside: str = "", overwrite: bool = False
) -> tuple[dict[Path, list[Path]], list[str]]:
    """The photos that are named, each once, with the files of their results; what is left out.

    Those of folders are sorted; results in an `output` inside of a folder are no photos of it. A
    result has the name of its photo, as a PNG where the photo's format is not written; `beside`:
    end of the name of a second file; no `output`: no files. Raises `S3EError` for a path that does
    not exist, where nothing is left, for an `output` that holds one of the photos or cannot be
    written to, and for two results of one name.
    """
    found: dict[str, Path] = {}
    problems: list[str] = []
    for path in named:
        if not path.exists():
            raise S3EError(f"{path} does not exist: correct the path.")
        files = [path]
        if path.is_dir():
            index = ImageIndex(path)
            problems += index.problems
            files = list(index.photos.values())
            if output and path.resolve() != output.resolve():
                files = [file for file in files if file.parent.resolve() != output.resolve()]
        for file in files:
            found.setdefault(os.path.realpath(file), file)
    if not found:
        names = ", ".join(map(str, named))
        raise S3EError(f"{names}: no photo there; name photos or a folder that holds some.")
    if not output:
        return dict.fromkeys(found.values(), []), problems
    check_folder(output)
    owners: dict[str, Path] = {}
    jobs = {}
    for real, photo in found.items():
        if Path(real).parent == output.resolve():
            raise S3EError(f"{photo} lies in {output}: give another folder for results with -o.")
        end = photo.suffix if photo.suffix.lower() in SAVED else ".png"
        files = [output / (photo.stem + name) for name in (end, beside) if name]
        for file in files:
            if (other := owners.setdefault(file.name.lower(), photo)) != photo:
                both = f"{other} and {photo} would both become {file}"
                raise S3EError(f"{both}: give their results two folders with -o.")
        if (there := [file for file in files if os.path.lexists(file)]) and not overwrite:
            remedy = "add --overwrite or another -o"
            problems.append(f"{there[0]} is there already, so {photo} is left out: {remedy}.")
        else:
            jobs[photo] = files
    return jobs, problems


def check_folder(folder: Path) -> None:
    """Raise `S3EError` unless files can be written into `folder`, which need not exist yet."""
    with disk_errors(folder, "name another folder for the results"):
        folder = folder.absolute()
        with suppress(FileNotFoundError, NotADirectoryError):
            folder.lstat()  # its name may be too long
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise S3EError(f"{there} is no folder to write to: name another one for the results.")


def for_each(
    jobs: Mapping[Path, Sequence[Path]], work: Callable[..., None], problems: Sequence[str]
) -> int:
    """Do `work(photograph, *files)` on each photo with the files for its results.

    What goes wrong becomes a line on stderr and the next photo is done. Returns 1 if there was
    anything (`problems` included), else 0. Ctrl-C ends it and says how far it came.
    """
    total, done = len(jobs) + len(problems), 0
    for problem in problems:
        say(problem)
    try:
        for photo, files in jobs.items():
            try:
                for file in files:
                    with suppress(FileNotFoundError):
                        file.lstat()  # before work: its name may be too long
                work(read_photo(photo), *files)
                done += 1
            except BrokenPipeError:  # not the photo: nobody reads what is printed
                raise
            except (S3EError, OSError, MemoryError, RuntimeError) as error:
                say(_explained(photo, error))
    except KeyboardInterrupt:
        far = f"interrupted: {done} of {total} photos done; no file is half written"
        raise KeyboardInterrupt(far) from None
    if done < total:
        say(f"{done} of {total} photos done, the others are named above")
    return int(done < total)


def _explained(photo: Path, error: Exception) -> str:
    """What went wrong with a photo, and the remedy; a mistake in the code is raised."""
    if isinstance(error, S3EError):
        return str(error)
    if out_of_memory(error):
        return f"{photo}: too little memory; scale it down, or use deblur with a smaller --tile."
    if not isinstance(error, OSError):
        raise error
    remedy = "free space, or name another folder for the results"
    return f"{photo}: {unwritable(error.filename or 'its result', error, remedy)}"


def blur_photos(
    photos: Sequence[Path], output: Path, overwrite: bool, severity: str, seed: int
) -> int:
    """`python -m s3e blur`: blur photos by a named severity, and write the kernels (unit sum).

    Returns 0, or 1 where a photo could not be done. Raises `S3EError` for a wrong request, before
    any work.
    """
    jobs, problems = plan_results(photos, output, KERNEL, overwrite)

    def blur(photo: Photograph, result: Path, beside: Path) -> None:
        made = blur_batch(photo.pixels[None], [photo.path.name], severity, seed)
        (blurred,), (extent,), (kernel,) = made
        write_photo(blurred, photo, result)
        write_file(beside, kernel)
        tell(f"{result}  extent {extent:.1f} px")

    return for_each(jobs, blur, problems)
