"""The files of a folder; a folder of numbered pictures among them stands for a video.

Three or more PNG or JPEG files that differ in one number are one video: each picture a frame, in
numeric order, gaps allowed. A picture that has the name of another file is that file's thumbnail.
"""

import os
import re
from collections import defaultdict
from pathlib import Path

FEWEST_PICTURES = 3
PICTURE = re.compile(r"(.*)\.(png|jpe?g)", re.IGNORECASE | re.DOTALL)
NUMBER = re.compile(r"(\d+)")


def find_files(root: Path) -> list[str]:
    """All files below `root` as sorted relative paths with forward slashes.

    Numbered pictures are one entry: their folder's path with a slash at its end. A folder that
    cannot be read is an entry without one. Hidden files and folders are skipped, links are
    followed, a folder is never entered twice.
    """
    found, entered = [], set()

    def refused(error: OSError) -> None:
        found.append(Path(error.filename).relative_to(root).as_posix())

    for folder, subfolders, names in os.walk(root, onerror=refused, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        real = os.path.realpath(folder)
        if real in entered:
            subfolders.clear()
            continue
        entered.add(real)
        here = Path(folder).relative_to(root)
        pictures = set(numbered(names))
        found += [f"{here.as_posix()}/"] if pictures else []
        single = [name for name in names if not name.startswith(".") and name not in pictures]
        found += [(here / name).as_posix() for name in single]
    return sorted(found, key=os.fsencode)


def numbered(names: list[str]) -> list[str]:
    """The numbered pictures among file names, in numeric order; [] where there are fewer than 3.

    They share the format and everything in the name but one number. Of several such rows of
    pictures the longest counts.
    """
    others = {Path(name).stem for name in names if not PICTURE.fullmatch(name)}
    alike = defaultdict(list)  # numbers and name, by all the rest of the name
    for name in sorted(names, key=os.fsencode):
        match = PICTURE.fullmatch(name)
        if match and not name.startswith(".") and match[1] not in others:
            rest = NUMBER.split(match[1])
            numbers = tuple(int(number) for number in rest[1::2])
            alike[(*rest[::2], match[2].lower() == "png")].append((numbers, name))
    rows = [row for group in alike.values() for row in _rows(group)]
    longest = max(rows, key=len, default=[])
    return longest if len(longest) >= FEWEST_PICTURES else []


def _rows(group: list[tuple[tuple[int, ...], str]]) -> list[list[str]]:
    """Names that differ in one number, in its order; one row for each set of the other numbers."""
    count = len(group[0][0])
    found = []
    for place in range(count):
        rows = defaultdict(list)
        for numbers, name in group:
            rows[numbers[:place] + numbers[place + 1 :]].append((numbers[place], name))
        found += [[name for _, name in sorted(row)] for row in rows.values()]
    return found


def pictures_in(folder: Path) -> list[str]:
    """Names of the folder's numbered pictures in the order of their frames."""
    return numbered([entry.name for entry in os.scandir(folder) if not entry.is_dir()])
