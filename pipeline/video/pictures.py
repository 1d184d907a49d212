"""Still pictures as a browser shows them: the one reader of `generate` and of image sequences.

In: a file. Out: uint8 RGB in sRGB, upright, transparent parts on white, 16 bits scaled to 8; and in
words what was done to it that its owner may not expect. Colours are converted by LittleCMS from an
embedded ICC profile, else from a PNG's gAMA and cHRM.
"""

import functools
import io
import struct
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from pipeline.video.folder import MAX_PIXELS, UNDECODABLE, Unreadable, check_readable

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "TGA", "GIF", "AVIF")
EXPECTED = (
    "expected a PNG, JPEG, WebP, TIFF, BMP, TGA, GIF or AVIF of 8 or 16 bits a channel and at most "
    f"{MAX_PIXELS / 1e6:.0f} million pixels"
)
MAX_BYTES = 2**30  # of a file; some formats are read whole before their size is known
MAX_SCANS = 100  # of a JPEG; each goes over all pixels, and takes a few bytes in the file
FITTED = "the size of the first one; where the aspect differs, the edges are cropped"
SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "Lab"}  # of profiles, by Pillow's modes
# LittleCMS' usual table of colours is two grey levels off, except for RGB; without one it is slow.
PRECISION = {"L": 0x0100, "RGB": 0, "CMYK": 0x0400, "LAB": 0x0100}  # ImageCms.Flags
BITS, PHOTOMETRIC, PLANAR = 258, 262, 284  # tags of TIFF
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
SRGB_PRIMARIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # x, y of white, R, G, B
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
D50 = np.array([0.9642, 1.0, 0.8249])  # white of all ICC profiles


class Picture(NamedTuple):
    pixels: np.ndarray  # uint8 H W 3, or H W 4 with straight alpha
    codec: str  # png, jpeg, ...
    notes: list[str]  # "transparent, shown on white"


def read_picture(path: Path, keep_alpha: bool = False) -> Picture:
    """The picture in a file, the first where there are several. Raises Unreadable.

    keep_alpha: what is transparent is `H W 4`, else it is put on white.
    """
    check_readable(path)
    if path.stat().st_size > MAX_BYTES:
        raise Unreadable(UNDECODABLE, f"a file of more than {MAX_BYTES / 1e6:.0f} MB")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of what is said here in a sentence
        try:
            with Image.open(path, formats=FORMATS) as image:
                return _shown(image, keep_alpha)
        except Unreadable:
            raise
        except UnidentifiedImageError:
            reason = "in a format, or with a kind of pixels, that is not known"
        except Image.DecompressionBombError:
            reason = "far too large"
        except Exception as error:  # a broken file makes Pillow raise anything
            reason = f"broken: {error or type(error).__name__}"
    raise Unreadable(UNDECODABLE, " ".join(reason.split()))


def size_text(pixels: np.ndarray) -> str:
    return f"{pixels.shape[0]}x{pixels.shape[1]}"


def _shown(image: Image.Image, keep_alpha: bool) -> Picture:
    codec, notes = image.format.lower(), []
    if image.width * image.height > MAX_PIXELS:  # nothing was decoded until here
        raise Unreadable(UNDECODABLE, f"{image.height}x{image.width} pixels are too many")
    if image.mode in ("I", "F"):
        raise Unreadable(UNDECODABLE, "numbers of 32 bits or with a sign, which name no white")
    if codec in ("jpeg", "mpo"):
        image.fp.seek(0)
        if image.fp.read().count(b"\xff\xda") > MAX_SCANS:
            raise Unreadable(UNDECODABLE, f"a JPEG of more than {MAX_SCANS} scans")
    if codec == "mpo":  # a camera's JPEG, which holds its preview or another view, too
        codec = "jpeg"
    elif getattr(image, "is_animated", False):
        notes.append("animated or of several pages, only the first picture is read")
    if codec == "tiff" and image.tag_v2.get(PLANAR) == 2 and 16 in image.tag_v2[BITS]:
        raise Unreadable(UNDECODABLE, "16 bits a channel, and each channel by itself")
    if codec == "png":
        _scale_transparency(image)
    image.load()
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # as above
        notes.append("broken EXIF data, not turned")
    colour, alpha = _split(image)
    colour, said = _to_srgb(colour, _profile(image))
    if said:
        notes.append(said)
    if alpha is not None and alpha.getextrema()[0] < 255:
        if keep_alpha:
            return Picture(np.dstack([colour, alpha]), codec, notes)
        wholly = alpha.getextrema()[1] == 0
        notes.append(f"transparent, {'wholly: white' if wholly else 'shown on white'}")
        page = Image.new("RGB", colour.size, "white")
        page.paste(colour, mask=alpha)
        colour = page
    return Picture(np.array(colour), codec, notes)  # a copy: writable


def _scale_transparency(image: Image.Image) -> None:
    """Brings a PNG's transparent colour, said in the file's own depth, to that of the pixels."""
    key, rawmode = image.info.get("transparency"), image.tile[0].args
    factor = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}.get(rawmode)
    if factor and key is not None:
        scaled = [int(value * factor) for value in np.atleast_1d(key)]
        image.info["transparency"] = tuple(scaled) if len(scaled) > 1 else scaled[0]


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours in a mode of SPACES or 16-bit grey (I;16), and alpha, None where all is opaque."""
    if image.mode.startswith("I;16"):
        levels, alpha = np.asarray(image).astype(np.uint16), None
        key, tags = image.info.get("transparency"), getattr(image, "tag_v2", {})
        if key is not None:
            alpha = Image.fromarray(np.where(levels == key, 0, 255).astype(np.uint8))
        if tags.get(BITS) == (12,):
            levels = levels << 4 | levels >> 8
        if tags.get(PHOTOMETRIC) == 0:  # white is 0, which Pillow heeds in other modes alone
            levels = ~levels
        return Image.fromarray(levels), alpha
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
        return image.convert(image.mode.removesuffix("A")), image.getchannel("A")
    if image.mode in SPACES:
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _profile(image: Image.Image) -> bytes:
    """The ICC profile of a picture, b"" where it has none and none is needed."""
    info = image.info
    if info.get("icc_profile"):
        return info["icc_profile"]
    gamma, primaries = info.get("gamma"), info.get("chromaticity")
    if image.format != "PNG" or "srgb" in info or not (gamma or primaries):
        return b""
    if image.mode in ("1", "L", "LA", "I;16"):
        primaries = None  # grey stays grey
    return png_profile(gamma, primaries)


def _to_srgb(colour: Image.Image, icc: bytes) -> tuple[Image.Image, str]:
    """Colours in mode RGB as sRGB, and a note of what was done, "" for nothing.

    Grey goes through a table of its levels: 16 bits reduced to 8 before a conversion, the dark
    ones of linear light would fall together.
    """
    grey = colour.mode in ("L", "I;16")
    transform, mode, said = _transform(icc, "L" if grey else colour.mode)
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    source = ramp if grey else colour
    if source.mode != mode:  # `convert` would copy
        source = source.convert(mode)
    converted = transform.apply(source) if transform else source
    if not grey:
        return converted, said
    levels = np.arange(256) if colour.mode == "L" else np.arange(2**16) / 257
    table = np.interp(levels, np.arange(256), np.asarray(converted)[0, :, 1])  # grey stays grey
    converted = Image.fromarray(table.round().astype(np.uint8)[np.asarray(colour)])
    return converted.convert("RGB"), said


@functools.lru_cache(maxsize=8)  # the images of a sequence share theirs
def _transform(icc: bytes, mode: str) -> tuple[ImageCms.ImageCmsTransform | None, str, str]:
    """A conversion to sRGB, the mode that it takes, and a note.

    None where the mode says it all: there is no profile, none that fits, or it is sRGB.
    """
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    if mode == "LAB":
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        return (
            ImageCms.ImageCmsTransform(lab, srgb, "LAB", "RGB", flags=PRECISION["LAB"]),
            "LAB",
            "",
        )
    if not icc:
        return None, "RGB", ""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        space = profile.profile.xcolor_space.strip()
        if space == "RGB" and mode == "L":
            mode = "RGB"
        if space != SPACES[mode]:
            return None, "RGB", f"colour profile for {space} on colours in {mode}, ignored"
        transform = ImageCms.ImageCmsTransform(profile, srgb, mode, "RGB", flags=PRECISION[mode])
        name = " ".join((profile.profile.profile_description or "their own space").split())
    except Exception:  # as above
        return None, "RGB", "broken colour profile, ignored"
    if mode != "CMYK":
        levels = np.linspace(0, 255, 16).astype(np.uint8)
        grid = np.stack(np.meshgrid(*[levels] * 3), axis=-1).reshape(1, -1, 3)
        probe = Image.fromarray(grid).convert(mode)
        change = np.asarray(transform.apply(probe)) - np.asarray(probe.convert("RGB"), np.int16)
        if np.abs(change).max() <= 1:  # rounding: pictures in sRGB stay what they are
            return None, "RGB", ""
    return transform, mode, f"colours converted from {name} to sRGB"


def png_profile(gamma: float | None, primaries: tuple[float, ...] | None) -> bytes:
    """What a PNG's gAMA and cHRM say, sRGB's where they lack, as an ICC profile (version 2).

    `gamma` encodes, 0.45455 for 2.2, which means sRGB's own curve; `primaries` are x and y of
    white, red, green and blue. b"", taken for none, where they are impossible.
    """
    curve = SRGB_CURVE
    if gamma and abs(gamma * 2.2 - 1) > 0.05:
        curve = (1 / gamma, 1.0, 0.0, 0.0, 0.0)
    x, y = np.reshape(primaries or SRGB_PRIMARIES, (4, 2)).T
    if min(y) <= 0 or not 0.01 <= (gamma or 1) <= 100:
        return b""
    white, *columns = np.stack([x / y, np.ones(4), (1 - x - y) / y], axis=1)  # 4 3: X, Y, Z
    columns = np.transpose(columns)
    columns = columns * np.linalg.solve(columns, white)  # R + G + B are white
    scale = (BRADFORD @ D50) / (BRADFORD @ white)
    columns = np.linalg.inv(BRADFORD) @ np.diag(scale) @ BRADFORD @ columns

    def numbers(kind: bytes, *values: float) -> bytes:  # s15Fixed16
        fixed = [round(value * 65536) for value in values]
        return kind + struct.pack(f">{len(fixed)}i", *fixed)

    tags = {
        b"wtpt": numbers(b"XYZ \0\0\0\0", *D50),
        **{
            name: numbers(b"XYZ \0\0\0\0", *column)
            for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns.T, strict=True)
        },
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), numbers(b"para\0\0\0\0\0\3\0\0", *curve)),
    }
    table, data, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content
    head = struct.pack(">I4sI", start + len(data), b"", 0x02400000) + b"mntrRGB XYZ "
    head = head.ljust(36, b"\0") + b"acsp"
    head = head.ljust(68, b"\0") + numbers(b"", *D50)
    return head.ljust(128, b"\0") + table + data
