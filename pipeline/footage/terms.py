"""What is measured of each frame while it is decoded: the detectors' terms and the block change.

`delta_hue`, `delta_sat`, `delta_lum` are those of PySceneDetect 0.7's ContentDetector: the mean
absolute change of OpenCV's HSV planes from the frame before, 0 at frame 0. They are taken from a
copy reduced as PySceneDetect does for speed: the longer side to 256, by skipping pixels.
"""

import cv2
import numpy as np

DETECTOR_SIDE = 256  # PySceneDetect reduces the longer side to it
BLOCK = 8  # pixels, side of the blocks in which a change is looked for
TERMS = ("delta_hue", "delta_sat", "delta_lum", "mean_luma", "block_change")
LUMA = np.array([0.299, 0.587, 0.114])  # weights of R, G, B (BT.601)


def detector_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the reduced copy that the detectors look at."""
    factor = max(1.0, max(height, width) / DETECTOR_SIDE)
    return max(1, round(height / factor)), max(1, round(width / factor))


class DetectorTerms:
    """Measures a video batch by batch; remembers the last frame between two batches."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None  # H W 3, HSV

    def measure(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 RGB `B H W 3` to float32 `B` a term, in levels of [0, 255] (hue [0, 179])."""
        count, height, width, _ = frames.shape
        rows = frames.reshape(count * height, width, 3)
        hsv = cv2.cvtColor(rows, cv2.COLOR_RGB2HSV).reshape(count, height, width, 3)
        first = hsv[:1] if self._last is None else self._last[None]
        before = np.concatenate([first, hsv[:-1]])  # B H W 3
        self._last = hsv[-1].copy()
        hue, sat, lum = channel_means(cv2.absdiff(hsv, before)).T
        luma = channel_means(frames) @ LUMA
        named = dict(zip(TERMS, (hue, sat, lum, luma), strict=False))
        return {name: values.astype(np.float32) for name, values in named.items()}


def channel_means(stack: np.ndarray) -> np.ndarray:
    """uint8 `B H W 3` to float64 `B 3`, from exact sums."""
    return np.array([cv2.mean(image)[:3] for image in stack])


def block_change(image: np.ndarray, other: np.ndarray) -> float:
    """Largest mean absolute RGB difference in any 8x8 block of two uint8 `H W 3`, in [0, 255].

    The mean over the whole picture would hide a blink; the largest single pixel is coding noise.
    """
    height, width, _ = image.shape
    change = cv2.absdiff(image, other).reshape(height, width * 3)
    tops, lefts = np.arange(0, height, BLOCK), np.arange(0, width, BLOCK)
    rows = np.add.reduceat(change, tops, axis=0, dtype=np.int32)
    sums = np.add.reduceat(rows, lefts * 3, axis=1)  # H/8 W/8
    heights = np.diff(np.append(tops, height))
    widths = np.diff(np.append(lefts, width))
    return float((sums / (3 * np.outer(heights, widths))).max())
