"""How ffmpeg is given a video file, or a folder of numbered pictures.

Pictures get links with plain numbers in a temporary folder, so neither odd names nor gaps nor an
empty picture can end ffmpeg's reading.
"""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.video.image_sequence import pictures_in
from pipeline.video.probe import UNDECODABLE, Unreadable

PICTURES_FPS = 24  # animation's; pictures name no rate
PROTOCOLS = "file,pipe"  # a playlist in the folder opens no network


@dataclass(frozen=True)
class Opened:
    """What ffmpeg is given: `url` with input `options`, started in `folder` (None: anywhere)."""

    url: str
    options: dict[str, str | int] = field(default_factory=dict)
    folder: Path | None = None
    pictures: tuple[str, ...] = ()  # names in the order of ffmpeg's numbers; () for a video file
    unread: tuple[str, ...] = ()  # empty or unreachable pictures, kept from ffmpeg: it would end


def parts(path: Path) -> list[Path]:
    """The files that make up an entry of `find_files`, in the order of their frames."""
    return [path / name for name in pictures_in(path)] if path.is_dir() else [path]


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """What to give ffmpeg for a path, while the context lasts. Raises Unreadable."""
    names = pictures_in(path) if path.is_dir() else []
    if not names:
        check_regular(path)
        with _plainly_named(path) as source:
            yield source
        return
    usable = [name for name in names if _has_content(path / name)]
    if not usable:
        raise Unreadable(UNDECODABLE, f"{len(names)} numbered pictures, all of them empty")
    unread = tuple(name for name in names if name not in set(usable))
    with tempfile.TemporaryDirectory() as folder:
        yield _link(path, usable, Path(folder), unread)


@contextmanager
def _plainly_named(path: Path) -> Iterator[Opened]:
    """A file by its name; by a link where the name is no valid text, as in old archives."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "video").symlink_to(path.absolute())
            yield Opened("file:video", folder=Path(folder))
        return
    yield Opened(f"file:{path}")  # a colon, dash or percent sign in the name then means itself


def check_regular(path: Path) -> None:
    """Refuses what must not be opened or holds nothing; a named pipe would block for ever."""
    try:
        info = path.stat()
    except FileNotFoundError:
        raise Unreadable(UNDECODABLE, "a link to a file that is missing") from None
    except OSError as error:
        raise Unreadable(UNDECODABLE, f"cannot be read: {error.strerror}") from None
    if stat.S_ISDIR(info.st_mode):
        raise Unreadable(UNDECODABLE, "a folder that cannot be read: Permission denied")
    if not stat.S_ISREG(info.st_mode):
        raise Unreadable(UNDECODABLE, "not a regular file")
    if not info.st_size:
        raise Unreadable(UNDECODABLE, "empty file")
    if not os.access(path, os.R_OK):
        raise Unreadable(UNDECODABLE, "cannot be read: Permission denied")


def _link(path: Path, names: list[str], folder: Path, unread: tuple[str, ...]) -> Opened:
    ending = "png" if names[0].lower().endswith("png") else "jpg"
    for number, name in enumerate(names):
        (folder / f"{number:08d}.{ending}").symlink_to((path / name).absolute())
    options = {"f": "image2", "framerate": PICTURES_FPS, "start_number": 0}
    return Opened(f"file:%08d.{ending}", options, folder, tuple(names), unread)


def _has_content(picture: Path) -> bool:
    try:
        check_regular(picture)
    except Unreadable:
        return False
    return True


def executable() -> str:
    """The path of ffmpeg."""
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()
