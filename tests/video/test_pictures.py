"""The reader of still pictures: the same pixels in `generate` and in `ingest`, and the right ones.

Expected values are those of a browser, by the formulas of the specifications.
"""

import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.commands.generate import say
from pipeline.errors import UserError
from pipeline.inference.keyframes import read_pictures
from pipeline.video import image_sequence

H, W = 20, 24
RAMP = np.linspace(0, 255, H * W).round().astype(np.uint8).reshape(H, W)
RGB = np.stack([RAMP, RAMP.T.reshape(H, W), 255 - RAMP], axis=2)
DEEP = np.linspace(0, 65535, H * W).round().astype(np.uint16).reshape(H, W)
ALPHA = np.repeat(np.array([0, 60, 200, 255], np.uint8), W // 4)[None].repeat(H, axis=0)
# x and y of white, red, green and blue, and the columns of published ICC profiles for them
SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
ADOBE = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
ADOBE_XYZ = [[0.60974, 0.31111, 0.01947], [0.20528, 0.62567, 0.06087], [0.14919, 0.06322, 0.74457]]
P3 = (0.3127, 0.3290, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
P3_XYZ = [[0.51512, 0.24120, -0.00105], [0.29198, 0.69225, 0.04189], [0.15710, 0.06657, 0.78407]]


def grey(levels):
    return np.stack([levels] * 3, axis=2)


def on_white(colours, alpha):
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


def to_xyz(primaries):
    x, y = np.reshape(primaries, (4, 2)).T
    white, *columns = np.stack([x / y, np.ones(4), (1 - x - y) / y], axis=1)
    columns = np.array(columns).T
    return columns * (np.linalg.inv(columns) @ white)


def as_srgb(colours, gamma, primaries=SRGB):
    """Colours encoded by 1 / gamma with these primaries; all of them have the white of sRGB."""
    linear = (colours / 255) ** gamma @ (np.linalg.inv(to_xyz(SRGB)) @ to_xyz(primaries)).T
    linear = linear.clip(0, 1)
    low = linear * 12.92
    return 255 * np.where(linear <= 0.0031308, low, 1.055 * linear ** (1 / 2.4) - 0.055)


def profile(space, connection, tags):
    """An ICC profile of version 2 with these tags."""
    tags = {"wtpt": xyz([0.9642, 1.0, 0.8249]), **tags}
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        place = 132 + 12 * len(tags) + len(data)
        table += name.encode() + struct.pack(">II", place, len(content))
        data += content + b"\0" * (-len(content) % 4)
    kind = b"prtr" if space == "CMYK" else b"mntr"
    head = struct.pack(">I4sI", 132 + 12 * len(tags) + len(data), b"", 0x02400000) + kind
    head += space.ljust(4).encode() + connection.ljust(4).encode() + bytes(12) + b"acsp" + bytes(28)
    return head + xyz([0.9642, 1.0, 0.8249])[8:] + bytes(48) + table + data


def xyz(values):
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def curve(gamma):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def rgb_profile(columns, gamma):
    tags = {f"{name}XYZ": xyz(column) for name, column in zip("rgb", columns, strict=True)}
    return profile("RGB", "XYZ", tags | {f"{name}TRC": curve(gamma) for name in "rgb"})


def cmyk_profile():
    """The lightness falls evenly with each ink; no ink has a hue."""
    corners = np.indices((2, 2, 2, 2)).reshape(4, -1).max(0)  # 1 where there is any ink
    table = np.stack([255 * (1 - corners), corners * 0 + 128, corners * 0 + 128], axis=1)
    tables = bytes(range(256))
    matrix = struct.pack(">9i", *(np.eye(3).ravel() * 65536).astype(int))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + tables * 4
    return profile("CMYK", "Lab", {"A2B0": lut + table.astype(np.uint8).tobytes() + tables * 3})


def png(depth, colour_type, rows, *chunks, size=(W, H)):
    """Bytes of a PNG from packed rows, for what Pillow does not write."""

    def chunk(name, data):
        checksum = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)

    head = struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + np.ascontiguousarray(row).tobytes() for row in rows))
    every = [(b"IHDR", head), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in every)


def saved(image, **options):
    """What writes a picture: an array, a Pillow image, or bytes of a file."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)

    def save(path):
        if isinstance(image, bytes):
            path.write_bytes(image)
        else:
            image.save(path, **options)

    return save


def deep(image):
    """A picture of 16 bits a channel by OpenCV, from RGB(A) or grey."""
    order = {2: None, 3: cv2.COLOR_RGB2BGR}.get(image.ndim)
    if image.ndim == 3 and image.shape[2] == 4:
        order = cv2.COLOR_RGBA2BGRA
    return lambda path: cv2.imwrite(
        str(path), image if order is None else cv2.cvtColor(image, order)
    )


def turned(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def half_floats(path):
    """RGB TIFF of 16 bits whose samples are floats (tag 339), as renderers write it."""
    cv2.imwrite(str(path), DEEP_RGB)
    tag = struct.pack("<HHI", 339, 3, 3)
    place = path.read_bytes().index(tag) + len(tag)
    content = bytearray(path.read_bytes())
    offset = struct.unpack_from("<I", content, place)[0]
    content[offset : offset + 6] = struct.pack("<3H", 3, 3, 3)
    path.write_bytes(content)


def inverted(path):
    """16-bit grey TIFF in which white is 0, by its tag 262."""
    Image.fromarray(65535 - DEEP).save(path)
    tag = struct.pack("<HHI", 262, 3, 1)
    path.write_bytes(path.read_bytes().replace(tag + b"\1", tag + b"\0"))


def palette(transparency=None):
    image = Image.fromarray((RAMP // 64).astype(np.uint8), "P")
    image.putpalette([250, 0, 0, 0, 200, 0, 0, 0, 150, 9, 9, 9])
    return saved(image, **({} if transparency is None else {"transparency": transparency}))


TABLE = np.array([[250, 0, 0], [0, 200, 0], [0, 0, 150], [9, 9, 9]])
UPRIGHT = {1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.swapaxes(0, 1),
           6: np.rot90(RGB, -1), 7: np.rot90(RGB, 2).swapaxes(0, 1), 8: np.rot90(RGB)}  # fmt: skip
RGBA = np.dstack([RGB, ALPHA])
CMYK = np.dstack([RGB, RAMP // 2])
BLACK = np.dstack([RGB * 0, 255 - RAMP])  # K alone
LIGHTNESS = (RAMP / 255 * 100 + 16) / 116
INKS = (255.0 - RGB) * (255 - RAMP[..., None] // 2) / 255
TWO_BITS = (RAMP // 64).astype(np.uint8)
PACKED = (TWO_BITS.reshape(H, W // 4, 4) << np.array([6, 4, 2, 0], np.uint8)).sum(2, np.uint8)
DEEP_RGB = (RGB.astype(np.uint16) * 257 + 100).clip(0, 65535).astype(np.uint16)
GAMMA_1 = (b"gAMA", struct.pack(">I", 100000))
GAMMA_22 = (b"gAMA", struct.pack(">I", 45455))
P3_PRIMARIES = (b"cHRM", struct.pack(">8I", *(round(value * 1e5) for value in P3)))
SRGB_PRIMARIES = (b"cHRM", struct.pack(">8I", *(round(value * 1e5) for value in SRGB)))
SRGB_CHUNK = (b"sRGB", b"\0")
OTHER = Image.fromarray(255 - RGB)
LAB = ImageCms.profileToProfile(
    Image.fromarray(grey(RAMP)),
    ImageCms.createProfile("sRGB"),
    ImageCms.createProfile("LAB"),
    outputMode="LAB",
)
GREY = profile("GRAY", "XYZ", {"kTRC": curve(1.5)})
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
WHITE, PROFILE, FIRST = "shown on white", "to sRGB", "only the first picture is read"

# name of the file: what writes it, expected pixels, words of the note
KINDS = {
    "rgb.png": (saved(RGB), RGB, ""),
    "rgb.bmp": (saved(RGB), RGB, ""),
    "rgb.tga": (saved(RGB), RGB, ""),
    "rgb.tif": (saved(RGB), RGB, ""),
    "lossless.webp": (saved(RGB, lossless=True), RGB, ""),
    "grey.jpg": (saved(RAMP, quality=100), grey(RAMP), ""),
    "grey.png": (saved(RAMP), grey(RAMP), ""),
    "bits.png": (saved(Image.fromarray(RAMP > 99)), grey(255 * (RAMP > 99)), ""),
    "bits.tif": (saved(Image.fromarray(RAMP > 99)), grey(255 * (RAMP > 99)), ""),
    "palette.png": (palette(), TABLE[RAMP // 64], ""),
    "palette.tga": (palette(), TABLE[RAMP // 64], ""),
    "deep.png": (deep(DEEP), grey(DEEP / 257), ""),
    "deep.tif": (deep(DEEP), grey(DEEP / 257), ""),
    "inverted.tif": (inverted, grey(DEEP / 257), ""),
    "deep_rgb.png": (deep(DEEP_RGB), DEEP_RGB / 257, ""),
    "deep_rgb.tif": (deep(DEEP_RGB), DEEP_RGB / 257, ""),
    "cmyk.tif": (saved(Image.fromarray(CMYK, "CMYK")), INKS, ""),
    "lab.tif": (saved(LAB), grey(RAMP), ""),
    # transparency
    "alpha.png": (saved(RGBA), on_white(RGB, ALPHA), WHITE),
    "alpha.tga": (saved(RGBA), on_white(RGB, ALPHA), WHITE),
    "alpha.tif": (saved(RGBA), on_white(RGB, ALPHA), WHITE),
    "alpha.webp": (saved(RGBA, lossless=True, exact=True), on_white(RGB, ALPHA), WHITE),
    "grey_alpha.png": (saved(np.dstack([RAMP, ALPHA])), on_white(grey(RAMP), ALPHA), WHITE),
    "deep_alpha.png": (
        deep(np.dstack([DEEP_RGB, ALPHA.astype(np.uint16) * 257])),
        on_white(DEEP_RGB / 257, ALPHA),
        WHITE,
    ),
    "opaque.png": (saved(np.dstack([RGB, ALPHA * 0 + 255])), RGB, ""),
    "clear.png": (saved(np.dstack([RGB, ALPHA * 0])), RGB * 0 + 255, "wholly: white"),
    "palette_key.png": (palette(1), np.where(grey(RAMP // 64) == 1, 255, TABLE[RAMP // 64]), WHITE),
    "palette_alpha.png": (
        palette(bytes([255, 60, 0, 255])),
        on_white(TABLE[RAMP // 64], np.array([255, 60, 0, 255])[RAMP // 64]),
        WHITE,
    ),
    "palette_key.gif": (palette(1), np.where(grey(RAMP // 64) == 1, 255, TABLE[RAMP // 64]), WHITE),
    "rgb_key.png": (
        saved(TABLE[RAMP // 64].astype(np.uint8), transparency=(0, 200, 0)),
        np.where(grey(RAMP // 64) == 1, 255, TABLE[RAMP // 64]),
        WHITE,
    ),
    "two_bits_key.png": (
        saved(png(2, 0, PACKED, (b"tRNS", b"\0\2"))),
        grey(np.where(TWO_BITS == 2, 255, TWO_BITS * 85)),
        WHITE,
    ),
    "deep_key.png": (
        saved(png(16, 0, DEEP.byteswap(), (b"tRNS", DEEP[0, 5].byteswap().tobytes()))),
        grey(np.where(DEEP[0, 5] == DEEP, 255, DEEP / 257)),
        WHITE,
    ),
    # colours
    "adobe.png": (saved(RGB, icc_profile=rgb_profile(ADOBE_XYZ, 563 / 256)),
                  as_srgb(RGB, 563 / 256, ADOBE), PROFILE),
    "p3.png": (saved(RGB, icc_profile=rgb_profile(P3_XYZ, 1.0)), as_srgb(RGB, 1, P3), PROFILE),
    "p3.tif": (saved(RGB, icc_profile=rgb_profile(P3_XYZ, 2.5)), as_srgb(RGB, 2.5, P3), PROFILE),
    "p3.webp": (saved(RGB, lossless=True, icc_profile=rgb_profile(P3_XYZ, 2.5)),
                as_srgb(RGB, 2.5, P3), PROFILE),
    "p3_alpha.png": (saved(RGBA, icc_profile=rgb_profile(P3_XYZ, 1.0)),
                     on_white(as_srgb(RGB, 1, P3), ALPHA), PROFILE),
    "p3_palette.png": (saved(Image.fromarray(TABLE[RAMP // 64].astype(np.uint8)).quantize(4),
                             icc_profile=rgb_profile(P3_XYZ, 1.0)),
                       as_srgb(TABLE[RAMP // 64], 1, P3), PROFILE),
    "p3_grey.png": (saved(RAMP, icc_profile=rgb_profile(P3_XYZ, 1.0)),
                    as_srgb(grey(RAMP), 1, P3), PROFILE),
    "grey_profile.png": (saved(RAMP, icc_profile=GREY), as_srgb(grey(RAMP), 1.5), PROFILE),
    "grey_profile.tif": (saved(DEEP, icc_profile=GREY), as_srgb(grey(DEEP / 257), 1.5), PROFILE),
    "cmyk_profile.tif": (saved(Image.fromarray(BLACK, "CMYK"), icc_profile=cmyk_profile()),
                         as_srgb(grey(255 * np.where(LIGHTNESS > 6 / 29, LIGHTNESS**3,
                                                     (LIGHTNESS - 4 / 29) * 108 / 841)), 1),
                         PROFILE),
    "srgb.png": (saved(RGB, icc_profile=SRGB_PROFILE), RGB, ""),
    "broken.png": (saved(RGB, icc_profile=SRGB_PROFILE[:200]), RGB, "broken colour profile"),
    "other.png": (saved(RGB, icc_profile=GREY), RGB, "for GRAY on colours in RGB"),
    "linear.png": (saved(png(8, 2, RGB, GAMMA_1)), as_srgb(RGB, 1), PROFILE),
    "linear_grey.png": (saved(png(16, 0, DEEP.byteswap(), GAMMA_1)),
                        as_srgb(grey(DEEP / 257), 1), PROFILE),
    "usual.png": (saved(png(8, 2, RGB, GAMMA_22, SRGB_PRIMARIES)), RGB, ""),
    "primaries.png": (saved(png(8, 2, RGB, GAMMA_1, P3_PRIMARIES)), as_srgb(RGB, 1, P3), PROFILE),
    "said.png": (saved(png(8, 2, RGB, SRGB_CHUNK, GAMMA_1, P3_PRIMARIES)), RGB, ""),
    "black.png": (saved(png(8, 2, RGB, (b"gAMA", b"\xff" * 4))), RGB, ""),
    "nonsense.png": (saved(png(8, 2, RGB, GAMMA_1, (b"cHRM", bytes(32)))), RGB, ""),
    # several pictures in a file
    "animated.png": (saved(RGB, save_all=True, append_images=[OTHER]), RGB, FIRST),
    "animated.webp": (saved(RGB, save_all=True, append_images=[OTHER], lossless=True), RGB, FIRST),
    "animated.gif": (saved(grey(RAMP), save_all=True, append_images=[OTHER]), grey(RAMP), FIRST),
    "pages.tif": (saved(RGB, save_all=True, append_images=[OTHER]), RGB, FIRST),
    "broken_exif.png": (saved(RGB, exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), RGB, ""),
    "wrong_ending.png": (saved(RAMP, format="JPEG", quality=100), grey(RAMP), ""),
    **{f"turned_{number}.{ending}":
           (saved(RGB, exif=turned(number), **options), UPRIGHT[number], "")
       for ending, options in {"png": {}, "tif": {}, "webp": {"lossless": True}}.items()
       for number in UPRIGHT},
}  # fmt: skip


def both_ways(folder, name, save):
    """Pixels and notes by generate and by ingest, of three copies at their own size."""
    for number in range(3):
        save(folder / name.replace(".", f"_{number}."))
    first = next(folder.glob("*_0.*"))
    given = read_pictures({0: first}, say)[0]
    if first.suffix == ".gif":  # no format of image sequences
        return given, None, ""
    header = image_sequence.probe(folder)
    size, notes = (header.height, header.width), []
    [batch] = image_sequence.decode(folder, header, size, size, notes)
    assert np.array_equal(batch.images, batch.samples)
    return given, batch.images, "; ".join(notes)


@pytest.mark.parametrize(("name", "kind"), KINDS.items(), ids=KINDS)
def test_generate_and_ingest_read_what_a_browser_shows(tmp_path, capsys, name, kind):
    save, expected, words = kind
    given, frames, note = both_ways(tmp_path, name, save)
    assert np.abs(given - np.asarray(expected, float)).max() <= 1.2, "more than rounding"
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == said.count(str(tmp_path))
    if frames is not None:
        assert all(np.array_equal(frame, given) for frame in frames)
        assert words in note and bool(note) == bool(said)
    assert given.flags.writeable, "PyTorch warns people of arrays that are not"


@pytest.mark.parametrize("name", KINDS)
def test_transparency_is_kept_where_it_is_wanted(tmp_path, name):
    KINDS[name][0](tmp_path / name)
    kept = read_pictures({0: tmp_path / name}, say, None)[0]
    if not any(word in name for word in ("alpha", "key", "clear")):
        assert kept.shape[2] == 3
        return
    on_black, on_page = (
        read_pictures({0: tmp_path / name}, print, c)[0] for c in ("black", "white")
    )
    alpha = kept[..., 3:].astype(int)
    assert np.abs(on_page.astype(int) - on_black - (255 - alpha)).max() <= 1
    assert np.abs(on_black - kept[..., :3] * (alpha / 255)).max() <= 1
    assert alpha.min() < 255


def recoded(path):
    """An AVIF of PQ in the primaries of BT.2020."""
    Image.fromarray(RGB).save(path)
    place = path.read_bytes().index(b"colrnclx") + 8
    path.write_bytes(path.read_bytes()[:place] + b"\0\x09\0\x10" + path.read_bytes()[place + 4 :])


@pytest.mark.parametrize(
    ("name", "save", "words"),
    [
        ("hdr.png", saved(png(8, 2, RGB, (b"cICP", b"\x09\x10\0\1"))), "code points 9 and 16 not"),
        ("p3.png", saved(png(8, 2, RGB, (b"cICP", b"\x0c\x0d\0\1"))), "code points 12 and 13 not"),
        ("srgb.png", saved(png(8, 2, RGB, (b"cICP", b"\1\x0d\0\1"))), ""),
        ("hdr.avif", recoded, "code points 9 and 16 not heeded"),
        ("usual.avif", saved(RGB), ""),
    ],
)
def test_colours_in_code_points_are_named(tmp_path, capsys, name, save, words):
    save(tmp_path / name)
    read_pictures({0: tmp_path / name}, say)
    said = capsys.readouterr().err
    assert words in said and bool(said) == bool(words)


def test_a_turned_sprite_is_turned_with_its_alpha(tmp_path):
    saved(RGBA, exif=turned(6))(tmp_path / "a.png")
    assert np.array_equal(
        read_pictures({0: tmp_path / "a.png"}, print, None)[0], np.rot90(RGBA, -1)
    )


LINEAR = np.linspace(0, 1, H * W).reshape(H, W)


def many_scans(path):
    """A progressive JPEG with its last scan a hundred times."""
    Image.fromarray(RGB).save(path, progressive=True)
    content = path.read_bytes()[:-2]
    path.write_bytes(content + content[content.rindex(b"\xff\xc4") :] * 100)


REFUSED = {
    "large.png": (saved(png(1, 0, [], size=(9000, 9000))), "9000x9000 pixels are too many"),
    "bomb.png": (saved(png(1, 0, [], size=(2**31 - 1, 2**31 - 1))), "far too large"),
    "bomb.gif": (saved(b"GIF89a" + b"\xff" * 4 + bytes(3)), "far too large|not known"),
    "scans.jpg": (many_scans, "a JPEG of more than 100 scans"),
    "half.tif": (half_floats, "kind of pixels, that is not known"),
    "float.tif": (saved(LINEAR.astype(np.float32)), "numbers of 32 bits or with a sign"),
    "integer.tif": (saved((LINEAR * 9e4).astype(np.int32)), "numbers of 32 bits or with a sign"),
    "photo.heic": (saved(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), "format, .* not known"),
    "text.png": (saved(b"no picture"), "format, .* not known"),
    "empty.png": (saved(b""), "empty file"),
    "cut.png": (saved(png(8, 2, RGB)[:200]), "broken: image file is truncated"),
    "pipe.png": (os.mkfifo, "not a regular file"),
    "folder.png": (os.mkdir, "is a folder"),
    "gone.png": (lambda path: None, "does not exist"),
    "x" * 300 + ".png": (lambda path: None, "File name too long"),
    "dot.png": (saved(np.zeros((1, 1, 3), np.uint8)), "is 1x1 pixels; expected at least 16x16"),
}


@pytest.mark.parametrize(("name", "case"), REFUSED.items(), ids=REFUSED)
def test_what_cannot_be_read_gets_a_sentence(tmp_path, capsys, recwarn, name, case):
    write, words = case
    write(tmp_path / name)
    with pytest.raises(UserError, match=rf"{name} .*({words})") as caught:
        read_pictures({0: tmp_path / name}, say)
    assert "; expected " in str(caught.value)
    assert "\n" not in str(caught.value) and str(caught.value).count(str(tmp_path)) == 1
    assert not recwarn and not capsys.readouterr().err
