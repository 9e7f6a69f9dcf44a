"""What is to be prepared of a data folder: which photos of each split, at which severities, in which shape."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from s3e.blur import SEVERITIES
from s3e.config import Config
from s3e.data.gopro import find_raw, raw_shift, raw_window, windows
from s3e.data.sources import SPLITS, Photo, Source, open_source
from s3e.data.survey import survey, survey_folder, unlent, usable
from s3e.utils import S3EError

Window = (
    tuple[Path, ...] | None
)  # the frames whose mean is a pair's severe view; None where the video has too few
PAIRED = ("released", "severe")  # severities of pairs, mildest first
MARGIN = 1.4  # shorter side of a frame over the side of its central crop: 640x360 and 256 (specification 3.4)


@dataclass(frozen=True)
class Part:
    """One split: its photos, their blurred views, and the shape (height, width, 3) of one photo.

    Where pairs have a severe view, `windows` has one entry for each; `whole` means whole frames, not central crops.
    """

    photos: list[Photo]
    severities: tuple[str, ...]
    shape: tuple[int, int, int]
    windows: list[Window] = field(default_factory=list)
    whole: bool = False

    @property
    def missing(self) -> dict[str, list[int]]:
        """Rows without a severity: pairs with too few neighbours for a severe view."""
        return (
            {"severe": rows}
            if (rows := [i for i, window in enumerate(self.windows) if window is None])
            else {}
        )


def read_data(
    config: Config, jobs: int = 0, progress: Callable = lambda items, **_: items
) -> Source:
    """The data folder of a configuration, with photos that cannot be used and near-duplicates across splits taken out.

    Every photo is looked at once; what was seen is kept beside the caches. Validation and test photos that the borrowed
    tree was trained on (`data.captioned`) are taken out as well. Raises `S3EError` as `open_source` does,
    for broken photos unless `data.skip_broken`, and for a severity that the data do not have.
    """
    data = config.data
    source = open_source(data.source, data.subset, data.skip_broken)
    check_severity(source, config)
    seen = survey(source, survey_folder(source.root), jobs, progress)
    source = usable(source, seen, data.skip_broken)
    if source.captioned or data.captioned == "scenes":
        return source
    lender = open_source(data.captioned, data.subset, data.skip_broken)
    lent = survey(lender, survey_folder(lender.root), jobs, progress)
    return unlent(source, seen, usable(lender, lent, data.skip_broken), lent)


def check_severity(source: Source, config: Config) -> None:
    """Raise `S3EError` if `blur.severity` does not exist for this kind of data."""
    known = PAIRED if source.paired else tuple(SEVERITIES)
    what = "pairs of blurred and sharp frames" if source.paired else "sharp photos alone"
    if config.blur.severity not in known:
        raise S3EError(
            f"blur.severity is '{config.blur.severity}', but {source.root} holds {what}: choose {' or '.join(known)} "
            f"(--set blur.severity={known[-1]})."
        )


def plan(source: Source, config: Config) -> dict[str, Part]:
    """What each split will hold under `data.train`, `data.val` and `data.test` (0: all; pairs: spread over the videos).

    Raises `S3EError` for a severity that does not fit, too few photos, or test frames of unequal sizes.
    """
    check_severity(source, config)
    chosen = {name: _choose(source, config, name) for name in SPLITS}
    if source.paired:
        return _pairs(source, config, chosen)
    shape, trained = (config.data.size, config.data.size, 3), (config.blur.severity,)
    return {
        name: Part(chosen[name], trained if name == "train" else tuple(SEVERITIES), shape)
        for name in SPLITS
    }


def protocol(source: Source, config: Config, severities: Sequence[str]) -> str:
    """One sentence for tables, without a full stop: where splits, blurred frames and severe ones come from."""
    if not source.paired:
        return source.protocol
    crops = f"central {config.data.size}-px crops"
    variant = {"released": "B, released frames", "raw": "A, raw frames in linear light"}[
        config.blur.average
    ]
    severe = (
        [f"severe = mean of {config.blur.frames} windows (variant {variant})"]
        if "severe" in severities
        else []
    )
    trained = f"trained on crops of frames with a shorter side of {side(config.data.size)} px"
    test = (
        f"{trained}, tested on whole frames of full size"
        if config.data.whole_frames
        else f"tested on {crops}"
    )
    return ", ".join([source.protocol, *severe, test])


def side(size: int) -> int:
    """The shorter side, in pixels, that a frame is resized to before its central crop of `size` is taken."""
    return round(MARGIN * size)


def _choose(source: Source, config: Config, name: str) -> list[Photo]:
    """The first photos of a split; pairs at equal distances."""
    photos = source.splits[name]
    limit = min(getattr(config.data, name) or len(photos), len(photos))
    if limit < 2:
        raise S3EError(
            f"{source.root}: fewer than 2 photos for the {name} split: set data.{name} to 0 (all) or more."
        )
    return (
        [photos[i * len(photos) // limit] for i in range(limit)]
        if source.paired
        else photos[:limit]
    )


def _pairs(source: Source, config: Config, chosen: dict[str, list[Photo]]) -> dict[str, Part]:
    trained, frames = config.blur.severity, config.blur.frames
    windows = {name: _windows(source, config, name, chosen[name]) for name in SPLITS}
    needed = SPLITS if trained == "severe" else SPLITS[1:]
    short = next(
        (name for name in needed if len(chosen[name]) - windows[name].count(None) < 2), None
    )
    if short and trained == "severe":
        raise S3EError(
            f"{source.root}: blur.severity=severe needs {frames} consecutive frames, which fewer than 2 pairs of the "
            f"{short} split have; --set blur.severity=released."
        )
    parts = {}
    for name, photos in chosen.items():
        severities = (trained,) if name == "train" else PAIRED[:1] if short else PAIRED
        whole = config.data.whole_frames and name == "test"
        shape = _frame_shape(photos) if whole else (config.data.size, config.data.size, 3)
        parts[name] = Part(
            photos, severities, shape, windows[name] if "severe" in severities else [], whole
        )
    return parts


def _windows(source: Source, config: Config, name: str, photos: list[Photo]) -> list[Window]:
    """The frames that each pair's severe view is the mean of: of the whole split, also where few pairs are chosen."""
    if config.blur.average == "raw":
        root, videos = find_raw(source.root), dict.fromkeys(photo.sequence for photo in photos)
        shift = {
            name: raw_shift([photo for photo in photos if photo.sequence == name], root)
            for name in videos
        }
        found = [
            raw_window(photo, config.blur.frames, root, shift[photo.sequence]) for photo in photos
        ]
        return [None if window is None else tuple(window) for window in found]
    everything = source.splits[name]
    around = dict(
        zip(
            [photo.id for photo in everything], windows(everything, config.blur.frames), strict=True
        )
    )
    found = [around[photo.id] for photo in photos]
    return [
        None if window is None else tuple(photo.blurred for photo in window) for window in found
    ]


def _frame_shape(photos: list[Photo]) -> tuple[int, int, int]:
    """Height, width and 3 of frames that must have one size (told from their headers)."""
    sizes: dict[tuple[int, int], Path] = {}
    for photo in photos:
        with Image.open(photo.path) as image:
            sizes.setdefault(image.size, photo.path)
    if len(sizes) > 1:
        shown = " but ".join(
            f"{path} has {width} x {height} pixels" for (width, height), path in sizes.items()
        )
        raise S3EError(f"whole frames need one size, {shown}: --set data.whole_frames=false.")
    width, height = next(iter(sizes))
    return height, width, 3
