"""The videos of a folder, and how ffmpeg is given one: a file, or an image sequence.

Three or more PNG or JPEG files that differ in one number are one video: each image a frame, in
numeric order, gaps allowed. An image that has the name of another file is that file's thumbnail.
ffmpeg gets links with plain numbers in a temporary folder, so neither odd names nor gaps nor an
empty image can end its reading.
"""

import os
import re
import stat
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

Size = tuple[int, int]  # height, width

SEQUENCE_FPS = 24  # animation's; images name no rate
MIN_IMAGES = 3
IMAGE = re.compile(r"(.*)\.(png|jpe?g)", re.IGNORECASE | re.DOTALL)
NUMBER = re.compile(r"(\d+)")
PROTOCOLS = "file,pipe"  # a playlist in the folder opens no network
NO_STREAM, UNDECODABLE = "no video stream", "undecodable"


class Unreadable(Exception):
    """A file that gives no frame. `status` is a word for the table, `reason` says why."""

    def __init__(self, status: str, reason: str):
        super().__init__(status, reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class FfmpegInput:
    """What ffmpeg is given: `url` with input `options`, started in `folder` (None: anywhere)."""

    url: str
    options: dict[str, str | int] = field(default_factory=dict)
    folder: Path | None = None
    images: tuple[str, ...] = ()  # names in the order of ffmpeg's numbers; () for a video file
    unread: tuple[str, ...] = ()  # empty or unreachable images, kept from ffmpeg: it would end

    def with_decoder(self, name: str | None) -> "FfmpegInput":
        """The same read by a decoder of that name; None leaves the choice to ffmpeg."""
        return replace(self, options=self.options | ({"c:v": name} if name else {}))


def executable() -> str:
    """The path of ffmpeg."""
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


def find_files(root: Path) -> list[str]:
    """All files below `root` as sorted relative paths with forward slashes.

    An image sequence is one entry: its folder's path with a slash at its end. A folder that cannot
    be read is an entry without one. Hidden files and folders are skipped, links are followed, a
    folder is never entered twice.
    """
    entries, entered = [], set()

    def unreadable_folder(error: OSError) -> None:
        entries.append(Path(error.filename).relative_to(root).as_posix())

    for folder, subfolders, names in os.walk(root, onerror=unreadable_folder, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        real = os.path.realpath(folder)
        if real in entered:
            subfolders.clear()
            continue
        entered.add(real)
        relative = Path(folder).relative_to(root)
        images = set(image_sequence(names))
        if images:
            entries.append(f"{relative.as_posix()}/")
        single = [name for name in names if not name.startswith(".") and name not in images]
        entries += [(relative / name).as_posix() for name in single]
    return sorted(entries, key=os.fsencode)


def image_sequence(names: list[str]) -> list[str]:
    """The numbered images among file names, in numeric order; [] where there are fewer than 3.

    They share the format and everything in the name but one number. Of several such sequences the
    longest counts.
    """
    others = {Path(name).stem for name in names if not IMAGE.fullmatch(name)}
    alike = defaultdict(list)  # numbers and name, by all the rest of the name
    for name in sorted(names, key=os.fsencode):
        match = IMAGE.fullmatch(name)
        if match and not name.startswith(".") and match[1] not in others:
            rest = NUMBER.split(match[1])
            numbers = tuple(int(number) for number in rest[1::2])
            alike[(*rest[::2], match[2].lower() == "png")].append((numbers, name))
    sequences = []
    for group in alike.values():
        for place in range(len(group[0][0])):  # the number that counts the frames
            rows = defaultdict(list)
            for numbers, name in group:
                rows[numbers[:place] + numbers[place + 1 :]].append((numbers[place], name))
            sequences += [[name for _, name in sorted(row)] for row in rows.values()]
    longest = max(sequences, key=len, default=[])
    return longest if len(longest) >= MIN_IMAGES else []


def parts(path: Path) -> list[Path]:
    """The files that make up an entry of `find_files`, in the order of their frames.

    None for a folder that cannot be read.
    """
    if not path.is_dir():
        return [path]
    try:
        names = [entry.name for entry in os.scandir(path) if not entry.is_dir()]
    except PermissionError:
        return []
    return [path / name for name in image_sequence(names)]


@contextmanager
def open_input(path: Path) -> Iterator[FfmpegInput]:
    """What to give ffmpeg for a path, while the context lasts. Raises Unreadable."""
    images = parts(path) if path.is_dir() else []
    if not images:
        check_readable(path)
        try:
            str(path).encode("utf-8")
        except UnicodeEncodeError:  # no valid text, as in old archives: a link stands for it
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "video").symlink_to(path.absolute())
                yield FfmpegInput("file:video", folder=Path(folder))
            return
        yield FfmpegInput(f"file:{path}")  # a colon, dash or percent sign then means itself
        return
    usable, unread = [], []
    for image in images:
        try:
            check_readable(image)
            usable.append(image)
        except Unreadable:
            unread.append(image.name)
    if not usable:
        raise Unreadable(UNDECODABLE, f"{len(images)} numbered pictures, all of them empty")
    ending = "png" if usable[0].name.lower().endswith("png") else "jpg"
    options = {"f": "image2", "framerate": SEQUENCE_FPS, "start_number": 0}
    names = tuple(image.name for image in usable)
    with tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(usable):
            (Path(folder) / f"{number:08d}.{ending}").symlink_to(image.absolute())
        yield FfmpegInput(f"file:%08d.{ending}", options, Path(folder), names, tuple(unread))


def check_readable(path: Path) -> None:
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
