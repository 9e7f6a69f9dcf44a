"""A minimal reader for folders in COCO-captions layout: `annotations/captions_{train,val}*.json` and `images/`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from s3e.paths import S3EError, read_json
from s3e.seeds import stable_hash


@dataclass(frozen=True)
class Photo:
    """One captioned photo on disk."""

    id: str
    path: Path
    captions: tuple[str, ...]


def read_folder(folder: Path | str) -> dict[str, list[Photo]]:
    """Photos of a COCO-layout folder by split.

    A folder with only train and val gets its test half from val: the photos whose hashed id is even are validation,
    the others test. Raises `S3EError` that names the file and the remedy.
    """
    folder = Path(folder)
    train, val, test = (_read(folder, split) for split in ("train", "val", "test"))
    if not train or not val:
        raise S3EError(
            f"{folder}/annotations: captions_train*.json and captions_val*.json are both needed; "
            "see the README for the layout."
        )
    if not test:
        even = [stable_hash("split", photo.id) % 2 == 0 for photo in val]
        test = [photo for photo, first in zip(val, even, strict=True) if not first]
        val = [photo for photo, first in zip(val, even, strict=True) if first]
    small = next((name for name, part in zip(("val", "test"), (val, test), strict=True) if len(part) < 2), None)
    if small:
        raise S3EError(f"{folder}: fewer than 2 photos for the {small} split; add photos to captions_val*.json.")
    return {"train": train, "val": val, "test": test}


def _read(folder: Path, split: str) -> list[Photo]:
    files = sorted((folder / "annotations").glob(f"captions_{split}*.json"))
    if not files:
        return []
    content = read_json(files[0])
    try:
        captions: dict[object, list[str]] = {}
        for item in content["annotations"]:
            captions.setdefault(item["image_id"], []).append(item["caption"])
        photos = [
            Photo(str(item["id"]), _find(folder, item["file_name"]), tuple(captions[item["id"]][:5]))
            for item in content["images"]
            if item["id"] in captions
        ]
    except (KeyError, TypeError) as error:
        raise S3EError(f"{files[0]}: not in COCO-captions layout (missing or wrong key {error}).") from None
    if not photos:
        raise S3EError(f"{files[0]}: holds no captioned image; each image needs at least one annotation.")
    return photos


def _find(folder: Path, name: str) -> Path:
    for path in (folder / "images" / name, folder / name, *(folder / sub / name for sub in ("train2014", "val2014"))):
        if path.is_file():
            return path
    return folder / "images" / name


def load_photo(path: Path, size: int) -> np.ndarray:
    """Decode, turn upright (EXIF), resize the shorter side to `size` and crop the centre: uint8 (size, size, 3)."""
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
            return np.asarray(ImageOps.fit(upright, (size, size), Image.Resampling.LANCZOS))
    except FileNotFoundError:
        raise S3EError(f"{path}: listed in the annotations but not there; restore it or remove its entry.") from None
    except (OSError, ValueError) as error:
        raise S3EError(f"{path}: cannot be read as a photo ({error}); replace the file or remove its entry.") from None
