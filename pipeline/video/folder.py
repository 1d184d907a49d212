"""The videos of a folder: files, and image sequences.

Three or more numbered images that differ in one number are one video, each image a frame, in
numeric order, gaps allowed. An image that has the name of another file is that file's thumbnail.
"""

import os
import re
import stat
from collections import defaultdict
from pathlib import Path

Size = tuple[int, int]  # height, width

MAX_PIXELS = 2**26  # of a picture, 8192x8192; while such a one is read it takes up to 1 GB
MIN_IMAGES = 3
IMAGE = re.compile(r"(.*)\.(png|jpe?g|webp|tiff?|bmp|tga)", re.IGNORECASE | re.DOTALL)
SAME_FORMAT = {"jpeg": "jpg", "tiff": "tif"}
NUMBER = re.compile(r"(\d+)")
NO_STREAM, UNDECODABLE = "no video stream", "undecodable"


class Unreadable(Exception):
    """A file that gives no frame. `status` is a word for the table, `reason` says why."""

    def __init__(self, status: str, reason: str):
        super().__init__(status, reason)
        self.status, self.reason = status, reason


def find_files(root: Path) -> list[str]:
    """All files below `root` as sorted relative paths with forward slashes.

    An image sequence is one entry with a slash at its end: its folder's path, or, where a folder
    holds several, each one's pattern in it, `shot/s1_*.png/`. A folder that cannot be read is an
    entry without one. Hidden files and folders are skipped, links are followed, a folder is never
    entered twice.
    """
    entries = []
    # a link to a folder that holds `root` would lead to everything beside it
    entered = {str(parent) for parent in Path(os.path.realpath(root)).parents}

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
        sequences = image_sequences(names)
        places = [relative / pattern for pattern in sequences] if len(sequences) > 1 else [relative]
        entries += [f"{place.as_posix()}/" for place in places if sequences]
        images = {name for sequence in sequences.values() for name in sequence}
        single = [name for name in names if not name.startswith(".") and name not in images]
        entries += [(relative / name).as_posix() for name in single]
    return sorted(entries, key=os.fsencode)


def image_sequences(names: list[str]) -> dict[str, list[str]]:
    """The numbered images among file names, in numeric order, by the pattern of their names.

    Those of a sequence share the format and everything in the name but one number: the last in
    which at least three differ. s1_01.png, s1_02.png, ... have the pattern `s1_*.png`.
    """
    others = {Path(name).stem for name in names if not IMAGE.fullmatch(name)}
    alike = defaultdict(list)  # numbers and name, by all the rest of the name
    for name in sorted(names, key=os.fsencode):
        match = IMAGE.fullmatch(name)
        if match and not name.startswith(".") and match[1] not in others:
            rest = NUMBER.split(match[1])
            numbers = tuple(int(number) for number in rest[1::2])
            ending = match[2].lower()
            alike[(*rest[::2], SAME_FORMAT.get(ending, ending))].append((numbers, name))
    sequences = {}
    for group in alike.values():
        for place in reversed(range(len(group[0][0]) if group else 0)):
            rows = defaultdict(list)
            for numbers, name in group:
                rows[numbers[:place] + numbers[place + 1 :]].append((numbers[place], numbers, name))
            group = []  # those left over may be a sequence by the number before
            for row in rows.values():
                if len(row) < MIN_IMAGES:
                    group += [(numbers, name) for _, numbers, name in row]
                    continue
                images = [name for _, _, name in sorted(row)]
                stem, dot, ending = images[0].rpartition(".")
                pieces = NUMBER.split(stem)
                pieces[2 * place + 1] = "*"
                sequences["".join([*pieces, dot, ending])] = images
    return sequences


def sequence_images(path: Path) -> list[Path]:
    """The images of an entry of `find_files` that ends in a slash, in the order of the frames."""
    folder = path if path.is_dir() else path.parent
    sequences = image_sequences([entry.name for entry in os.scandir(folder) if not entry.is_dir()])
    if path.is_dir():  # the only one
        return [folder / name for names in sequences.values() for name in names]
    return [folder / name for name in sequences.get(path.name, [])]


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
