"""What is measured of each frame while it is decoded: all that the scene detectors look at.

The numbers are those of PySceneDetect 0.7's detectors, taken from a copy reduced as PySceneDetect
does for speed: the longer side to 256, by skipping pixels. So any detector can be tried afterwards
without opening a video again.

- Content and adaptive: `delta_hue`, `delta_sat`, `delta_lum`, the mean absolute change of OpenCV's
  HSV planes from the frame before, and `delta_edges`, that of the dilated Canny edges; 0 at
  frame 0.
- Threshold: `mean_rgb`, the mean of all pixels and channels.

Beside them `time`; of the model's own frames `block_change`, by which holds are found; and `small`,
the grey 32x32 picture whose cosine transform PySceneDetect hashes, by which scenes are compared.
"""

import math

import cv2
import numpy as np

DETECTOR_SIDE = 256  # PySceneDetect reduces the longer side to it
SMALL_SIDE = 32  # HashDetector's size * lowpass, by its defaults
LEVELS = 256
EDGE_SIGMA = 1 / 3  # Canny's two thresholds lie so far below and above the median
BLOCK = 8  # pixels, side of the blocks in which a change is looked for
DELTAS = ("delta_hue", "delta_sat", "delta_lum", "delta_edges")
TERMS = (*DELTAS, "mean_luma", "mean_rgb", "block_change", "time")  # float32 a frame
LUMA = np.array([0.299, 0.587, 0.114])  # weights of R, G, B (BT.601)


def detector_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the reduced copy that the detectors look at."""
    factor = max(1.0, max(height, width) / DETECTOR_SIDE)
    return max(1, round(height / factor)), max(1, round(width / factor))


class FrameTerms:
    """Measures a video batch by batch; remembers the last frame between two batches."""

    def __init__(self) -> None:
        self._last_maps: np.ndarray | None = None  # h w 4: hue, saturation, lightness, edges
        self._last_image: np.ndarray | None = None  # H W 3

    def measure(
        self, images: np.ndarray, samples: np.ndarray, times: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The TERMS and `small` of B frames: `images` uint8 `B H W 3` as the model sees them,
        `samples` uint8 `B h w 3` as the detectors do, `times` float `B` in seconds.

        Terms are float32 `B` in levels of [0, 255] (hue [0, 179]); `small` is uint8 `B 32 32`.
        Changes are those from the frame before, 0 for the first.
        """
        count, height, width, _ = samples.shape
        rows = samples.reshape(count * height, width, 3)
        hsv = cv2.cvtColor(rows, cv2.COLOR_RGB2HSV).reshape(samples.shape)
        maps = np.stack([cv2.merge([image, edges(cv2.extractChannel(image, 2))]) for image in hsv])
        before = maps[:1] if self._last_maps is None else self._last_maps[None]
        deltas = channel_means(cv2.absdiff(maps, np.concatenate([before, maps[:-1]]))).T  # 4 B
        colours = channel_means(samples)  # B 3
        before = images[0] if self._last_image is None else self._last_image
        pairs = zip(images, [before, *images[:-1]], strict=True)
        terms = dict(zip(DELTAS, deltas, strict=True))
        terms |= {"mean_luma": colours @ LUMA, "mean_rgb": colours.mean(axis=1), "time": times}
        terms["block_change"] = np.array([block_change(image, last) for image, last in pairs])
        self._last_maps, self._last_image = maps[-1].copy(), images[-1]
        named = {name: values.astype(np.float32) for name, values in terms.items()}
        return named | {"small": small_grey(samples)}


def channel_means(stack: np.ndarray) -> np.ndarray:
    """uint8 `B H W C` to float64 `B C` (C to 4), from exact sums."""
    return np.array([cv2.mean(image)[: stack.shape[-1]] for image in stack])


def small_grey(frames: np.ndarray) -> np.ndarray:
    """uint8 RGB `B H W 3` to uint8 `B 32 32`."""
    side = SMALL_SIDE, SMALL_SIDE
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    return np.stack([cv2.resize(image, side, interpolation=cv2.INTER_AREA) for image in grey])


def edges(lightness: np.ndarray) -> np.ndarray:
    """Dilated Canny edges of uint8 `H W`: 255 on an edge, else 0."""
    height, width = lightness.shape
    median = _median(lightness)
    low = int(max(0, (1.0 - EDGE_SIGMA) * median))
    high = int(min(255, (1.0 + EDGE_SIGMA) * median))
    side = 4 + round(math.sqrt(width * height) / 192)
    side += side % 2 == 0
    return cv2.dilate(cv2.Canny(lightness, low, high), np.ones((side, side), np.uint8))


def _median(plane: np.ndarray) -> float:
    """`np.median` of uint8 `H W`, from the histogram: it need not be sorted."""
    counts = cv2.calcHist([plane], [0], None, [LEVELS], [0, LEVELS])  # exact, float32
    reached = np.cumsum(counts)
    middles = (plane.size - 1) // 2, plane.size // 2  # the same one for an odd number
    return float(np.searchsorted(reached, middles, side="right").mean())


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
