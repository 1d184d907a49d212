"""The files of a folder; a folder of numbered pictures among them stands for a video.

Three or more PNG or JPEG files that differ in one number are one video: each picture a frame, in
numeric order, gaps allowed.
"""

import os
import re
from collections import defaultdict
from pathlib import Path

FEWEST_PICTURES = 3
NUMBERED = re.compile(r"(.*?)(\d+)(\D*)\.(png|jpe?g)", re.IGNORECASE | re.DOTALL)


def find_files(root: Path) -> list[str]:
    """All files below `root` as sorted relative paths with forward slashes.

    Numbered pictures are one entry: their folder's path with a slash at its end. Hidden files and
    folders are skipped, links are followed, a folder is never entered twice.
    """
    found, entered = [], set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
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

    They share the format and everything in the name but the last number. Of several such rows of
    pictures the longest counts.
    """
    rows = defaultdict(list)
    for name in sorted(names, key=os.fsencode):
        match = NUMBERED.fullmatch(name)
        if match and not name.startswith("."):
            before, number, after, ending = match.groups()
            rows[before, after, ending.lower() == "png"].append((int(number), name))
    longest = max(rows.values(), key=len, default=[])
    return [name for _, name in sorted(longest)] if len(longest) >= FEWEST_PICTURES else []


def pictures_in(folder: Path) -> list[str]:
    """Names of the folder's numbered pictures in the order of their frames."""
    return numbered([entry.name for entry in os.scandir(folder) if not entry.is_dir()])
