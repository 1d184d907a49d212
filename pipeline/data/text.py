"""A cheap guess whether a picture shows text: light strokes in rows on dark, plain ground.

What a 3x3 opening takes from a picture are its light strokes of one or two pixels. Text has many
of them, they lie in rows, little else is light, and the ground is dark and plain. Nothing is read.

Known limits: dark letters on light ground, subtitles over a picture, letters whose strokes are
thicker than two pixels of the model's frame (a title that fills the picture) or that vanish in it
are not found, nor is a single line. Of drawn credits of 3 or 6 lines, letters of 5 to 7 pixels are
found; smaller ones at some sizes only. Lit windows in a row on a dark, plain night may be taken for
text. It was tried on drawn credits; no real credits were at hand.
"""

import cv2
import numpy as np

STROKE = 24  # grey levels by which a stroke is lighter than its surroundings
GROUND, GROUND_SHARE = 64, 0.5  # most of the picture is darker than this grey level
STROKE_SHARE = 0.008  # strokes are at least so much of the picture
LIGHT_SHARE = 0.5  # and so much of all that is lighter than the ground by STROKE
ROW_SHARE = 0.75  # of the strokes lie in rows of at least ROW_STROKES pieces
ROW_STROKES, LEAST_STROKES = 3, 8


def has_text(luma: np.ndarray) -> bool:
    """uint8 `H W`, a model's frame of some 64 lines, to whether it looks like text."""
    ground = float(np.median(luma))
    if ground > GROUND or (np.abs(luma - ground) < STROKE).mean() < GROUND_SHARE:
        return False
    strokes = cv2.morphologyEx(luma, cv2.MORPH_TOPHAT, np.ones((3, 3), np.uint8)) > STROKE
    light = luma > ground + STROKE
    if strokes.mean() < STROKE_SHARE or strokes.sum() < LIGHT_SHARE * light.sum():
        return False
    return _in_rows(strokes)


def _in_rows(strokes: np.ndarray) -> bool:
    """bool `H W`: whether the connected pieces are many, low, and side by side."""
    count, _, stats, centres = cv2.connectedComponentsWithStats(strokes.astype(np.uint8))
    low = stats[1:, cv2.CC_STAT_HEIGHT] <= max(3, len(strokes) // 6)
    if count - 1 < LEAST_STROKES or low.mean() < ROW_SHARE:
        return False
    rows = centres[1:, 1][low]
    beside = np.abs(rows[:, None] - rows) <= max(1.0, len(strokes) / 48)
    return bool((beside.sum(axis=1) >= ROW_STROKES).mean() >= ROW_SHARE)
