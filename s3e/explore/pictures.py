"""Pictures of live widgets as PNG; `s3e.report.style` makes them."""

import cv2
import numpy as np

from s3e.report.style import (  # noqa: F401
    SIDE,
    enlarged,
    lit,
    spectrum,
    tinted,
    top,
    trajectory,
    window_for,
)
from s3e.report.style import kernel_image as kernel  # noqa: F401


def png(picture: np.ndarray) -> bytes:
    """PNG bytes of a picture, or of a grey one, uint8 (H, W)."""
    coded = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", coded, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def shown(picture: np.ndarray, side: int = SIDE) -> bytes:
    """PNG bytes of the picture at the size of the page."""
    return png(enlarged(picture, side))
