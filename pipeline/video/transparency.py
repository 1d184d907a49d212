"""Transparency of still pictures: read with it, put on a colour, mixed without a halo.

In files and frames alpha is straight, uint8 `H W 4`. Where pixels are mixed it is premultiplied,
float in [0, 1]: the colour hidden under a transparent pixel must not count.
"""

import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from pipeline.errors import UserError
from pipeline.video import pictures

Colour = tuple[int, int, int]
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
LIGHT = 170  # mean grey level of pictures that are seen better on black
# Code points of a PNG's or AVIF's colours: primaries, transfer. Those of SDR video pass as sRGB.
CODE_POINTS = re.compile(rb"cICP(..)|colrnclx\0(.)\0(.)", re.DOTALL)
AS_SRGB = {1, 2}, {1, 2, 6, 13, 14, 15}


def read(path: Path) -> pictures.Picture:
    """As `pictures.read_picture`, but uint8 `H W 4` where the picture is not opaque."""
    picture = pictures.read_picture(path, keep_alpha=True)
    with path.open("rb") as file:
        match = CODE_POINTS.search(file.read(2**12))
    if match and picture.codec in ("png", "avif"):
        primaries, transfer = b"".join(match.groups(b""))
        if primaries not in AS_SRGB[0] or transfer not in AS_SRGB[1]:
            picture.notes.append(f"colour code points {primaries} and {transfer} not heeded")
    return picture


def parse_colour(text: str) -> Colour:
    """A name or #rrggbb, or what else Pillow knows of CSS; UserError for others."""
    try:
        colour = ImageColor.getrgb(text.strip())
    except ValueError:
        colour = ()
    if len(colour) != 3 or max(colour) > 255:
        raise UserError(
            f"--background {text}: expected an opaque colour, its name or #rrggbb, such as white "
            "or '#ffcc00' (in quotes)"
        )
    return colour


def over(image: np.ndarray, colour: Colour) -> np.ndarray:
    """uint8 `H W 4` on a colour, `H W 3`; opaque pictures as they are."""
    if image.shape[2] == 3:
        return image
    page = Image.new("RGB", image.shape[1::-1], colour)
    page.paste(Image.fromarray(image[..., :3]), mask=Image.fromarray(image[..., 3]))
    return np.array(page)  # a copy: writable


def contrasting(images: list[np.ndarray]) -> Colour:
    """White, or black where uint8 `H W 4` pictures are light: what shows their outlines."""
    grey = sum((image[..., :3].mean(2) * image[..., 3]).sum() for image in images)
    weight = sum(image[..., 3].sum(dtype=float) for image in images)
    return BLACK if grey > LIGHT * weight else WHITE


def premultiplied(image: np.ndarray) -> np.ndarray:
    """uint8 `... 4` to float32 `... 4` in [0, 1]."""
    mixed = image.astype(np.float32) / 255
    mixed[..., :3] *= mixed[..., 3:]
    return mixed


def straight(mixed: np.ndarray) -> np.ndarray:
    """The inverse of `premultiplied`; a colour is at most as strong as alpha, which is clipped."""
    alpha = mixed[..., 3:]
    colour = mixed[..., :3].clip(0, alpha.clip(0)) / np.maximum(alpha, 1e-6)
    return (np.concatenate([colour, alpha.clip(0, 1)], -1) * 255).round().astype(np.uint8)
