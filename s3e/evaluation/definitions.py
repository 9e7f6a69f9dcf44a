"""What "PSNR" and "SSIM" mean elsewhere: the definitions in use, on the same pictures (appendix to specification 4.4).

Left out: CW-SSIM (needs a complex steerable pyramid), and average-pooling before SSIM, which changes large photos only.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from skimage import data
from skimage.metrics import structural_similarity

from s3e.convolution import blur_image
from s3e.data.corpus import Corpus
from s3e.evaluation import image
from s3e.evaluation.runs import describe

PHOTOS = 200  # are scored: all definitions together take ten milliseconds for 64 px, 150 for 256 px
BORDER = 4  # pixels, as in super-resolution by a factor of four
LUMA = np.array([65.481, 128.553, 24.966]) / 255  # ITU-R BT.601: Y from 16 (black) to 235 (white)
GREY = np.array([0.299, 0.587, 0.114])  # the same from 0 to 255
COLUMNS = ("variant", "definition", "metric", "value")
Score = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Definition:
    """One meaning of a metric; `score` takes a restored and a sharp uint8 image (H, W, 3); `habit`: who does so."""

    name: str
    metric: str
    score: Score
    habit: str
    pooled: bool = (
        False  # `score` is the mean squared error, and PSNR that of its mean over all images
    )


def _skimage(restored: np.ndarray, sharp: np.ndarray, data_range: float = 255, **settings) -> float:
    return structural_similarity(
        restored, sharp, data_range=data_range, channel_axis=-1, **settings
    )


WANG = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def _floats_of_range_two(restored: np.ndarray, sharp: np.ndarray) -> float:
    return _skimage(restored / 255, sharp / 255, 2.0, **WANG)


def _everywhere(restored: np.ndarray, sharp: np.ndarray, mode: str, axes: tuple[int, ...]) -> float:
    """SSIM of all windows, also those that leave the image, by a Gaussian along `axes`; `mode`: what lies outside."""
    x, y = restored.astype(float), sharp.astype(float)
    mx, my, xx, yy, xy = (
        gaussian_filter(z, image.DEFINITION.sigma, mode=mode, radius=5, axes=axes)
        for z in (x, y, x * x, y * y, x * y)
    )
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    return float(np.mean(top / ((mx**2 + my**2 + c1) * (xx - mx**2 + yy - my**2 + c2))))


def _grey(restored: np.ndarray, sharp: np.ndarray) -> float:
    """SSIM of 8-bit grey images, three equal channels each."""
    grey = (np.rint(item @ GREY).astype(np.uint8) for item in (restored, sharp))
    return image.ssim(*(np.repeat(item[..., None], 3, -1) for item in grey))


def _luma(score: Callable[..., float]) -> Score:
    """`score` on Y, as an image of three equal channels."""

    def measure(restored: np.ndarray, sharp: np.ndarray) -> float:
        return score(
            *(np.repeat((16 + item @ LUMA)[..., None], 3, -1) for item in (restored, sharp)), 255
        )

    return measure


def _cropped(restored: np.ndarray, sharp: np.ndarray) -> float:
    return image.psnr(*(item[BORDER:-BORDER, BORDER:-BORDER] for item in (restored, sharp)))


def _squared(restored: np.ndarray, sharp: np.ndarray) -> float:
    return float(np.mean(np.square(restored.astype(float) - sharp)))


DEFINITIONS = (
    Definition("this suite", "psnr", image.psnr, "8-bit RGB, per image"),
    Definition("pooled over images", "psnr", _squared, "torchmetrics without `dim`", pooled=True),
    Definition("Y channel", "psnr", _luma(image.psnr), "super-resolution"),
    Definition(f"border of {BORDER} px cropped", "psnr", _cropped, "KAIR, super-resolution"),
    Definition("this suite", "ssim", image.ssim, "Wang et al.: Gaussian 11 x 11, per channel"),
    Definition("scikit-image default", "ssim", _skimage, "7 x 7 box, sample covariance"),
    Definition(
        "sample covariance",
        "ssim",
        partial(_skimage, gaussian_weights=True, sigma=1.5),
        "scikit-image with the Gaussian alone",
    ),
    Definition(
        "floats, range 2", "ssim", _floats_of_range_two, "scikit-image's former default for floats"
    ),
    Definition("grey first", "ssim", _grey, "8-bit grey, as image libraries convert"),
    Definition("Y channel", "ssim", _luma(image.ssim), "super-resolution"),
    Definition(
        "border counted",
        "ssim",
        partial(_everywhere, mode="mirror", axes=(0, 1)),
        "torchmetrics, kornia",
    ),
    Definition(
        "through colour",
        "ssim",
        partial(_everywhere, mode="nearest", axes=(0, 1, 2)),
        "MATLAB ssim(rgb), NAFNet",
    ),
)


def astronaut() -> tuple[np.ndarray, np.ndarray]:
    """The pair of the lesson: a 256 x 256 crop of scikit-image's astronaut under a horizontal box blur of 15 px.

    Returns the blurred one before rounding, float32 (256, 256, 3) in [0, 255], and the sharp one, uint8.
    """
    sharp = data.astronaut()[:256, 100:356]
    return blur_image(sharp / 255, np.full((1, 15), 1 / 15)) * 255, sharp


def value(definition: Definition, restored: np.ndarray, sharp: np.ndarray) -> float:
    """A definition's score of images uint8 (N, H, W, 3): the mean over images, or PSNR of the pooled error."""
    mean = float(np.mean([definition.score(*pair) for pair in zip(restored, sharp, strict=True)]))
    if not definition.pooled:
        return mean
    return min(image.DEFINITION.cap, 10 * np.log10(255**2 / mean)) if mean else image.DEFINITION.cap


def read_outputs(
    corpus: Corpus, arms: Iterable[Path], severity: str
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The first test photos of a severity, as they were blurred and as each arm (folder of a run) restored them.

    Returns ({"blurred" and variants: uint8 (N, H, W, 3)}, the sharp ones); arms that kept no photos are left out.
    """
    test, rows = corpus.test, corpus.test.rows(severity)[:PHOTOS]
    outputs = {"blurred": test.blurred[severity][rows]}
    for run in map(describe, arms):
        if (run.path / "restored_test.npy").is_file():
            outputs[run.variant] = np.load(run.path / "restored_test.npy", mmap_mode="r")[rows]
    return outputs, test.sharp[rows]


def definition_scores(outputs: Mapping[str, np.ndarray], sharp: np.ndarray) -> pd.DataFrame:
    """Every definition of every output: variant, definition, metric, value (PSNR in dB).

    `outputs`: variant -> uint8 (N, H, W, 3); `sharp`: the same shape.
    """
    rows = [
        (variant, definition.name, definition.metric, value(definition, images, sharp))
        for variant, images in outputs.items()
        for definition in DEFINITIONS
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def rounding(blurred: np.ndarray, sharp: np.ndarray) -> dict[str, float]:
    """PSNR in dB of a float image (H, W, 3) in [0, 255] as it is, and after each way to make 8 bits of it."""
    return {
        "floats": image.psnr(blurred.astype(float), sharp.astype(float), 255),
        "rounded": image.psnr(np.rint(blurred).clip(0, 255).astype(np.uint8), sharp),
        "truncated": image.psnr(blurred.clip(0, 255).astype(np.uint8), sharp),
    }


def swapped(scores: pd.DataFrame) -> pd.DataFrame:
    """Which pairs of variants each definition ranks otherwise than the suite's: metric, definition, pairs, apart.

    `pairs`: of "a > b" in words of the suite's order; `apart`: the largest of their differences under the suite's own
    definition. A swap of two that are hardly apart means little.
    """
    rows = []
    for metric, part in scores.groupby("metric", sort=False):
        table = part.pivot(index="definition", columns="variant", values="value")
        ours = table.loc[DEFINITIONS[0].name]
        for name in part.definition.unique():
            found = [
                pair
                for pair in combinations(table.columns, 2)
                if _turned(ours, table.loc[name], pair)
            ]
            words = [" > ".join(sorted(pair, key=lambda variant: -ours[variant])) for pair in found]
            apart = max((abs(ours[first] - ours[second]) for first, second in found), default=0.0)
            rows.append(
                {"metric": metric, "definition": name, "pairs": ", ".join(words), "apart": apart}
            )
    return pd.DataFrame(rows)


def _turned(ours: pd.Series, theirs: pd.Series, pair: tuple[str, str]) -> bool:
    first, second = pair
    return (ours[first] - ours[second]) * (theirs[first] - theirs[second]) < 0
