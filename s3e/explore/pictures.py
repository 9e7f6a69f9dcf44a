"""Pictures of live widgets: NumPy and OpenCV only, a few milliseconds each (matplotlib draws the static figures).

Pictures are uint8 (H, W, 3) in RGB, in and out, unless said otherwise.
"""

import cv2
import numpy as np

from s3e.report.blurring import amplitude

SIDE = 256  # pixels of a picture's longer side on the page
DECADES = 4.0  # of a spectrum's amplitude are told apart
LOWEST = 1e-3  # amplitude, so that a logarithm exists
PATH, HIDDEN, RIM = (
    (213, 94, 0),
    (190, 190, 190),
    (230, 159, 0),
)  # exposed part, hidden part, outline of attention


def png(picture: np.ndarray) -> bytes:
    """PNG bytes of a picture, or of a grey one, uint8 (H, W)."""
    coded = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", coded, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def enlarged(picture: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The picture with `side` pixels at its longer side: small ones show their pixels, large ones are averaged."""
    scale = side / max(picture.shape[:2])
    size = [max(1, round(length * scale)) for length in picture.shape[1::-1]]
    return cv2.resize(
        picture, size, interpolation=cv2.INTER_NEAREST_EXACT if scale > 1 else cv2.INTER_AREA
    )


def shown(picture: np.ndarray, side: int = SIDE) -> bytes:
    """PNG bytes of the picture at the size of the page."""
    return png(enlarged(picture, side))


def tinted(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1], (H, W), from black over red to pale yellow ("magma")."""
    levels = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_MAGMA), cv2.COLOR_BGR2RGB)


def lit(picture: np.ndarray, attention: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The enlarged picture, lit by an attention map (h, w) and outlined at half of its peak, as in figure 6."""
    picture = enlarged(picture, side)
    light = (attention / max(float(attention.max()), 1e-12)).astype(np.float32)
    zoomed = cv2.resize(light, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    found = (picture * (0.4 + 0.6 * zoomed[..., None])).astype(np.uint8)
    rims, _ = cv2.findContours(
        (zoomed >= 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
    )
    return cv2.drawContours(found, rims, -1, RIM, max(1, side // 128))


def window_for(path: np.ndarray, size: int) -> int:
    """Pixels (odd) at a side of the square that shows a path: `size` halved as often as the path still fits."""
    reach = 2 * max(np.abs(path.real).max(), np.abs(path.imag).max()) + 3
    while size > 16 and reach <= size / 2:
        size //= 2
    return (size if reach <= size else 2 * size) | 1  # a middle pixel, as kernels have it


def trajectory(path: np.ndarray, exposed: int, window: int, side: int = SIDE) -> np.ndarray:
    """A camera path (complex, pixels) around the middle of `window` x `window` pixels, its exposed samples coloured."""
    canvas = np.full((side, side, 3), 255, np.uint8)
    places = (np.stack([path.real, path.imag], 1) / window + 0.5) * side
    fixed = np.rint(places * 16).astype(np.int32)  # OpenCV's sixteenths of a pixel
    for part, colour, width in ((fixed, HIDDEN, 1), (fixed[:exposed], PATH, 2)):
        cv2.polylines(canvas, [part], False, colour, width, cv2.LINE_AA, 4)
    cv2.circle(canvas, fixed[0].tolist(), 5 * 16, (0, 0, 0), -1, cv2.LINE_AA, 4)
    return canvas


def kernel(values: np.ndarray, window: int, side: int = SIDE) -> np.ndarray:
    """A kernel with odd sides in the middle of `window` x `window` pixels (odd); brightness by square root."""
    reach = window // 2
    spare = max(0, reach - len(values) // 2)
    padded = np.pad(values, spare)
    middle = len(padded) // 2
    cut = padded[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]
    return enlarged(tinted(np.sqrt(cut / cut.max())), side)


def top(sharp: np.ndarray) -> float:
    """The largest log10 amplitude of a photo's spectrum: the brightest tone of `spectrum` for all its blurred ones."""
    return float(np.log10(amplitude(sharp) + LOWEST).max())


def spectrum(photo: np.ndarray, brightest: float, side: int = SIDE) -> np.ndarray:
    """Log amplitude spectrum of a photo, frequency 0 in the middle; `DECADES` below `brightest` are black."""
    levels = np.log10(amplitude(photo) + LOWEST)
    return enlarged(tinted(1 + (levels - brightest) / DECADES), side)
