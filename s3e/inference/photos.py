"""Photos in and out of files; finding many, a file for each result, one line an error."""

import io
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray
from PIL import ExifTags, Image

from s3e.blur import blur_batch
from s3e.data.photos import KEPT, decode
from s3e.data.readers import ImageIndex
from s3e.utils import S3EError, atomic_write, disk_errors, out_of_memory, say, tell, write_file

# Extensions of the results, and what of `KEPT` such a file keeps
SAVED = dict.fromkeys((".jpg", ".jpeg"), KEPT) | dict.fromkeys((".png", ".tif", ".tiff"), KEPT[:3])
SAVED |= {".webp": ("exif", "icc_profile", "xmp"), ".bmp": ("dpi",), ".ppm": ()}
KERNEL = ".kernel.npy"  # end of the name of the kernel beside the photo that `blur` made by it


class Photograph(NamedTuple):
    """A photo and what its file says about it.

    `pixels`: uint8 (H, W, 3), upright RGB; `notes`: what was converted or is left out; `about`:
    `exif` and `xmp` for upright pixels, `icc_profile`, `dpi`, `comment`, where the file has them;
    None for all else that it says.
    """

    pixels: ndarray
    path: Path
    notes: tuple[str, ...]
    about: dict[str, Any]


def read_photo(path: Path | str) -> Photograph:
    """Read a photo of any usual kind, with what its file says about it.

    Raises `S3EError` as `s3e.data.photos.decode` (broken, cut, too small, larger than 80
    megapixels).
    """
    image, _, notes = decode(path)
    about = image.info
    if exif := about.pop("exif", None):
        try:
            about["exif"] = _upright(exif, *image.size)
        except (KeyError, struct.error):
            notes.append("EXIF cannot be read, left out")
    return Photograph(np.asarray(image), Path(path), tuple(notes), about)


def _upright(exif: bytes, width: int, height: int) -> bytes:
    """EXIF byte for byte, but for orientation, sides and the way to the thumbnail.

    Raises KeyError or struct.error where it cannot be followed.
    """
    data, values = bytearray(exif.removeprefix(b"Exif\0\0")), {0xA002: width, 0xA003: height}
    values[ExifTags.Base.Orientation] = 1
    order = {b"II": "<", b"MM": ">"}[bytes(data[:2])]
    lists = [*struct.unpack_from(order + "I", data, 4)]  # of tags: the main one, the details
    for start in lists:
        (count,) = struct.unpack_from(order + "H", data, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHII", data, entry)
            if tag == ExifTags.IFD.Exif and len(lists) == 1:
                lists.append(value)
            elif tag in values:
                form = order + {3: "H", 4: "I"}[kind]
                struct.pack_into(form, data, entry + 8, values[tag])
        if start == lists[0]:  # behind it is the way to the thumbnail
            struct.pack_into("4x", data, start + 2 + 12 * count)
    return b"Exif\0\0" + data


def write_photo(pixels: ndarray, like: Photograph, path: Path | str) -> None:
    """Write uint8 (H, W, 3) in the format of the extension, with what `like` says about itself.

    JPEG: quality 95, full colour resolution. What the format does not keep is said on stderr.
    Raises `S3EError` for an unknown extension or where the file cannot be written; then there is no
    file.
    """
    path, buffer = Path(path), io.BytesIO()
    if (end := path.suffix.lower()) not in SAVED:
        known = ", ".join(SAVED)
        raise S3EError(f"{path}: photos are not written as '{path.suffix}'; choose one of {known}.")
    kept = {key: like.about[key] for key in SAVED[end] if like.about.get(key)}
    kind = Image.registered_extensions()[end]
    remedy = "name another folder, or make the photo a PNG"
    with disk_errors(path, remedy), atomic_write(path) as temporary:
        try:
            Image.fromarray(pixels).save(buffer, kind, quality=95, subsampling=0, **kept)
        except ValueError as error:  # too long a side or EXIF for the format
            raise OSError(None, str(error)) from None
        temporary.write_bytes(buffer.getvalue())  # Pillow would not notice a full disk
    if lost := like.about.keys() - kept:
        say(f"{path}: not kept: {', '.join(sorted(lost))}")


def plan_results(
    named: Sequence[Path], output: Path | None = None, beside: str = "", overwrite: bool = False
) -> tuple[dict[Path, list[Path]], list[str]]:
    """The photos that are named, each once, with the files of their results; what is left out.

    Those of folders are sorted; what is no photo is counted on stderr. Results in an `output`
    inside of a folder are no photos of it. A result has the name of its photo, as a PNG where the
    photo's format is not written; `beside`: end of the name of a second file; no `output`: none.
    Raises `S3EError` for a path that does not exist, where nothing is left, for an `output` that
    holds one of the photos or cannot be written to, and for two results of one name.
    """
    found: dict[str, Path] = {}
    problems, notes = [], []
    for path in named:
        if not path.exists():
            raise S3EError(f"{path} does not exist: correct the path.")
        files = [path]
        if path.is_dir():
            index = ImageIndex(path)
            files = [*index.photos.values()]
            problems += index.problems
            if output and path.resolve() != output.resolve():
                files = [file for file in files if file.parent.resolve() != output.resolve()]
            if others := index.left_alone():
                lines = problems if "convert" in others else notes
                lines.append(f"{path}: {others}.")
            if not files:
                problems.append(f"{path}: no photo there; name photos or a folder that holds some.")
        for file in files:
            found.setdefault(os.path.realpath(file), file)
    if not found:
        raise S3EError(" ".join([*problems, *notes]))
    for note in notes:
        say(note)
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
        there = folder.absolute()
        while not (there.is_symlink() or there.exists()):  # raises for a name that is too long
            there = there.parent
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
                with disk_errors(f"{photo}: its result", "free space, or name another folder"):
                    for file in files:
                        file.parent.mkdir(parents=True, exist_ok=True)
                        with suppress(FileNotFoundError):
                            file.lstat()  # before work: its name may be too long
                    work(read_photo(photo), *files)
                done += 1
            except S3EError as error:
                say(error)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                say(f"{photo}: too little memory; scale it down, or lower the --tile of deblur.")
    except KeyboardInterrupt:
        far = f"interrupted: {done} of {total} photos done; no file is half written"
        raise KeyboardInterrupt(far) from None
    if done < total:
        say(f"{done} of {total} photos done, the others are named above")
    return int(done < total)


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
        tell(", ".join((f"{result}  extent {extent:.1f} px", *photo.notes)))

    return for_each(jobs, blur, problems)
