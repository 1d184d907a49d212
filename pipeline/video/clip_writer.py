"""Writes the clip that a user asked for: mp4, GIF, animated WebP, or a folder of PNG files.

    check(Path("clip.mp4"), given_pictures)                before the drawing
    write_clip(frames, n_frames, Path("clip.mp4"), fps)

Each file and folder is complete or absent, and carries a mark. Only what carries it is replaced: an
earlier clip, never a file of the user's. A link stands for what it leads to.
"""

import errno
import io
import math
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.errors import UserError
from pipeline.io import atomic, remove_stale, temporary
from pipeline.video.writer import write_video

MARK = "nakawari"
FRAME_NAME = re.compile(r"frame_\d{4,}\.png")
# Half the colour resolution, as most video has it, would keep flat drawings to 28-40 dB at any crf.
EXACT = {"crf": 8, "pix_fmt": "yuv444p"}  # at least 42 dB, on noise
GIF_SECONDS = 655  # that one picture can be shown for
# Of a duration, in milliseconds; and the most frames a second: what is shown for 10 ms, or for less
# than 20 in a GIF, browsers show for 100.
TICKS, MOST_FPS = {".gif": 10, ".webp": 1}, {".gif": 50, ".webp": 90}
HELD = {".gif": 1, ".webp": 4}  # bytes a pixel of frames that Pillow holds until all are there
KEEPS_ALPHA = ("", ".webp")
LARGEST_SIDE = 16383  # of WebP; those of H.264 are one more, GIF and PNG know larger ones
# Of the size of PNG files, at least
LEAST_SHARE = {"": 0.5, ".gif": 0.1, ".webp": 0.05, ".mp4": 0.01}
SOFTWARE = 305  # tag of EXIF


def check(out: Path, pictures: Iterable[Path]) -> None:
    """UserError where `out` is no name of a clip, cannot be written or would cost a file."""
    if out.suffix.lower() not in LEAST_SHARE or out.name.lower() in (".mp4", ".gif", ".webp"):
        raise UserError(
            f"--out {out}: expected a name ending in .mp4, .gif or .webp, or, for PNG files, a "
            "folder's, without a dot"
        )
    place = _place(out)
    try:
        for picture in pictures:
            with suppress(OSError):  # the picture's reader says it
                _check_picture(out, place, picture)
        _check_existing(out, place)
        existing = next(folder for folder in place.parents if os.path.lexists(folder))
        if not existing.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{existing} is no folder")
        remove_stale(existing)
        with temporary(existing, Path.mkdir) as trial:
            name = place.relative_to(existing)
            (trial / name).parent.mkdir(parents=True, exist_ok=True)
            (trial / name).touch()
    except OSError as error:
        raise UserError(
            f"--out {out} cannot be written ({error.strerror or error}); choose another place or "
            "name"
        ) from None


def _place(out: Path) -> Path:
    return Path(os.path.realpath(out))


def _check_picture(out: Path, place: Path, picture: Path) -> None:
    for taken in (picture, _place(picture).parent):
        if taken.exists() and place.exists() and place.samefile(taken):
            raise UserError(
                f"--out {out} would replace the given picture {picture}; choose another name"
            )


def _check_existing(out: Path, place: Path) -> None:
    """Refuses what exists and was not written by this program."""
    if place.is_symlink():
        raise OSError(errno.ELOOP, "a link that leads to itself")
    if not place.exists():
        return
    if not os.access(place, os.W_OK):
        raise OSError(errno.EACCES, "it exists and is protected")
    if out.suffix and place.is_dir():
        raise UserError(f"--out {out} is a folder; expected the name of a file")
    if out.suffix:
        if not _is_own(place, out.suffix.lower()):
            raise UserError(
                f"--out {out} exists and is no clip of this program; choose another name, or "
                "remove it"
            )
        return
    if not place.is_dir():
        raise UserError(f"--out {out} is a file; expected a new or empty folder")
    _check_folder(out, place)
    if os.path.ismount(place) or place.samefile("."):
        raise UserError(
            f"--out {out} is a folder that cannot be replaced (the current one, or a mount); "
            f"expected one inside it, such as {out / 'clip'}"
        )


def _check_folder(out: Path, folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if not (FRAME_NAME.fullmatch(path.name) and _is_own(path, "")):
            raise UserError(
                f"--out {out} holds {path.name}; expected a new folder, an empty one, or one with "
                "frames of an earlier clip"
            )


def _is_own(path: Path, suffix: str) -> bool:
    """Whether this program wrote the file, or it holds nothing that could be lost."""
    if not path.is_file():
        return False
    if not path.stat().st_size:
        return bool(suffix)
    if suffix == ".mp4":
        with path.open("rb") as file:
            header = file.read(2**22).partition(b"mdat")[0]
        handler = b"vide" + bytes(12) + MARK.encode() + b"\0"
        return handler in header and b"\0\0\0\x08ilst" in header  # no tags; ffmpeg's edits have
    try:
        with Image.open(path) as image:
            if suffix == ".gif":
                return image.info.get("comment") == MARK.encode()
            if suffix == ".webp":
                return image.format == "WEBP" and image.getexif().get(SOFTWARE) == MARK
            return image.info.get("Software") == MARK
    except Exception:  # Pillow's many, on a damaged file
        return False


def check_content(
    out: Path, frames: Iterable[np.ndarray], n_frames: int, n_clips: int, fps: float
) -> list[str]:
    """Lines of what the file shows otherwise; UserError where such clips cannot be.

    frames: uint8 `H W 3` or 4, the given ones as they will be written.
    """
    suffix, images, lines = out.suffix.lower(), [Image.fromarray(frame) for frame in frames], []
    if max(images[0].size) > LARGEST_SIDE:
        width, height = images[0].size
        raise UserError(
            f"the clip would be {height}x{width} (height x width); expected sides of at most "
            f"{LARGEST_SIDE}; choose a smaller size"
        )
    if fps > MOST_FPS.get(suffix, fps):
        kind, most = suffix[1:].upper(), MOST_FPS[suffix]
        lines.append(f"a {kind} shows at most {most} frames a second, not {fps:g}")
    if suffix == ".gif":
        fps = min(fps, MOST_FPS[suffix])
        seconds = n_frames / fps
        if seconds > GIF_SECONDS:
            raise UserError(
                f"the clip would last {seconds:.0f} seconds; expected at most {GIF_SECONDS} of a "
                "GIF; choose fewer frames or .mp4"
            )
        if not math.isclose(100 / fps, round(100 / fps)):
            short = int(100 / fps)
            lines.append(
                f"a GIF counts hundredths of a second; frames last {short} or {short + 1} of them, "
                f"{fps:g} frames a second on average"
            )
        if any(image.getcolors(256) is None for image in images):
            lines.append("a GIF has 256 colours a frame, and the pictures have more")
    png = io.BytesIO()
    images[0].save(png, "png")
    needed = png.tell() * LEAST_SHARE[suffix] * n_frames * n_clips / 1e6
    folder = next(folder for folder in _place(out).parents if folder.is_dir())
    free = shutil.disk_usage(folder).free / 1e6
    if needed > free:
        raise UserError(
            f"the clip would take at least {math.ceil(10 * needed) / 10} MB, and "
            f"{math.floor(10 * free) / 10} MB are free on its disk; "
            "free some space, or choose fewer frames or a smaller size"
        )
    return lines


def write_clip(frames: Iterable[np.ndarray], n_frames: int, out: Path, fps: float) -> None:
    """Writes uint8 `H W 3` frames, `n_frames` of them, as they come; see HELD for GIF and WebP.

    Frames with alpha are `H W 4`, for what KEEPS_ALPHA.
    """
    place, suffix = _place(out), out.suffix.lower()
    if suffix == ".mp4":
        write_video(place, frames, fps, mark=MARK, **EXACT)
    elif suffix:
        tick, fps = TICKS[suffix], min(fps, MOST_FPS[suffix])
        # From 0, each rounded, so that the whole takes the right time.
        times = [tick * round(1000 * k / fps / tick) for k in range(n_frames + 1)]
        images = map(Image.fromarray, frames)
        exif = Image.Exif()
        exif[SOFTWARE] = MARK
        marked = {"comment": MARK} if suffix == ".gif" else {"exif": exif, "lossless": True}
        with atomic(place) as partial:
            next(images).save(
                partial,
                format=suffix[1:],
                save_all=True,
                append_images=images,
                duration=[end - start for start, end in pairwise(times)],
                loop=0,
                **marked,
            )
    else:
        mark = PngInfo()
        mark.add_text("Software", MARK)
        digits = max(4, len(str(n_frames - 1)))
        with temporary(place.parent, Path.mkdir) as partial:
            for number, frame in enumerate(frames):
                Image.fromarray(frame).save(
                    partial / f"frame_{number:0{digits}d}.png", pnginfo=mark
                )
            while not _replaced(partial, place, out):
                pass  # another process put its clip there at the same time


def _replaced(new: Path, place: Path, out: Path) -> bool:
    """Moves a folder to `place`; what is there is moved aside first, and back if that fails."""
    try:
        if not place.exists() or not any(place.iterdir()):
            new.rename(place)
            return True
        with temporary(place.parent, Path.mkdir) as aside:
            place.rename(aside)
            try:
                _check_folder(out, aside)  # what came there while the clip was drawn
                new.rename(place)
            except BaseException:
                with suppress(OSError):
                    aside.rename(place)
                raise
        return True
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST) or not new.exists():
            raise
        return False
