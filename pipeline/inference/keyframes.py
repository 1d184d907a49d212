"""Which frames of a clip are given, their pictures, and what lies between: segments, timing.

Given frames cut a clip into segments. Each is a clip of its own, with its own count of remaining
frames. "On ones, twos, threes" is the animators' word for how many frames a drawing is held. Frame
numbers are 0-based.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from pipeline import frames
from pipeline.errors import UserError
from pipeline.video import transparency
from pipeline.video.folder import Unreadable
from pipeline.video.pictures import EXPECTED, FITTED, size_text

N_FRAMES = 20  # of a clip of which only both ends are given
MAX_FRAMES = 100_000  # more than an hour of film
MIN_SIDE = 16  # pixels of a given picture


@dataclass(frozen=True)
class Segment:
    """The frames first, first + 1, ..., last of a clip, of which the first and the last are given.

    It is drawn as a clip of `n_drawings`, both given ones included. Its last drawing is on show at
    the frame `last` only, each one before it for `on` frames, or for what is left until there.
    """

    first: int
    last: int
    on: int = 1

    @property
    def n_drawings(self) -> int:
        return -(-(self.last - self.first) // self.on) + 1

    @property
    def drawn(self) -> bool:
        """Whether it has any drawing beside the given ones."""
        return self.n_drawings >= 3

    @property
    def shown(self) -> list[int]:
        """The drawing, from 0, on show at each of its frames but the last."""
        return [i // self.on for i in range(self.last - self.first)]


def segments(given: Iterable[int], on: int = 1) -> list[Segment]:
    """The segments between given frames, in order; neighbours make one of two frames."""
    return [Segment(*ends, on) for ends in pairwise(sorted(given))]


def frames_to_draw(parts: Iterable[Segment]) -> int:
    """Drawings that are not given, of all segments."""
    return sum(part.n_drawings - 2 for part in parts if part.drawn)


def last_step(clip: np.ndarray) -> float:
    """How far a clip uint8 `n H W 3` jumps into its last, given frame, in grey levels."""
    return float(np.abs(clip[-1].astype(np.int16) - clip[-2]).mean())


def given_frames(
    first: Path | None, last: Path | None, more: Iterable[str], n_frames: int | None
) -> dict[int, Path]:
    """The pictures of the options --first, --last, --frame and --n-frames by frame, in order.

    The largest frame is the clip's last. UserError, naming the option, where frame 0 or the last
    one lacks, one is given twice or lies outside, or nothing is left to draw.
    """
    options = [(f"--frame {option}", *_parsed(option)) for option in more]
    if first:
        options.insert(0, (f"--first {first}", 0, first))
    if not (options or last):
        raise UserError("no frame is given; expected --first and --last, or --frame 0=PICTURE ...")
    length = _length(n_frames, last, [frame for _, frame, _ in options], bool(more))
    if last:
        options.append((f"--last {last}", length - 1, last))
    _check_inside(options, length)
    _check_ends({frame for _, frame, _ in options}, length)
    return {frame: path for _, frame, path in sorted(options, key=lambda option: option[1])}


def _parsed(option: str) -> tuple[int, Path]:
    """`9=mid.png` to frame and file."""
    match = re.fullmatch(r"([0-9]{1,9})=(.+)", option, re.DOTALL)
    if not match:
        raise UserError(
            f"--frame {option}: expected INDEX=PICTURE such as 9=mid.png; the first frame is 0"
        )
    return int(match[1]), Path(match[2])


def _length(n_frames: int | None, last: Path | None, given: list[int], numbered: bool) -> int:
    """Frames of the clip: as said, or up to the largest index."""
    if n_frames is None and numbered and last:
        raise UserError(
            f"--last {last}: its frame is not known beside --frame; add --n-frames, or give it as "
            f"--frame INDEX={last}"
        )
    if numbered and max(given) >= MAX_FRAMES:
        raise UserError(f"--frame {max(given)}=...: expected an index below {MAX_FRAMES}")
    if n_frames is None:
        n_frames = max(given) + 1 if numbered else N_FRAMES
    elif n_frames < 3:
        raise UserError(
            f"--n-frames {n_frames}: expected at least 3, both given frames and one between"
        )
    return n_frames


def _check_inside(options: list[tuple[str, int, Path]], length: int) -> None:
    """Each frame of `(option, frame, file)` lies in the clip, and is given once."""
    owners: dict[int, str] = {}
    for option, frame, _ in options:
        if frame >= length:
            raise UserError(
                f"{option}: expected an index from 0 to {length - 1}, as --n-frames is {length}; "
                "change one of them"
            )
        if frame in owners:
            raise UserError(
                f"frame {frame} is given twice, by {owners[frame]} and by {option}; leave one out"
            )
        owners[frame] = option


def _check_ends(given: set[int], length: int) -> None:
    """Both ends of the clip are given, and not all that lies between."""
    last = length - 1
    if 0 not in given:
        raise UserError("frame 0 is not given; add --first PICTURE or --frame 0=PICTURE")
    if not last:
        raise UserError("frame 0 is the only one given; add the last one, --frame INDEX=PICTURE")
    if last not in given:
        raise UserError(
            f"frame {last}, the last one of --n-frames {length}, is not given; add --last PICTURE "
            f"or --frame {last}=PICTURE"
        )
    if len(given) == length:
        raise UserError(
            f"all {length} frames are given and none is left to draw; leave one out, or give them "
            "larger indices"
        )


def read_pictures(
    paths: dict[int, Path], say: Callable[[str], object], background: str | None = "white"
) -> dict[int, np.ndarray]:
    """uint8 `H W 3` by frame, in the aspect of frame 0; says what was done to them, in lines.

    background: a colour that is put under transparent parts; None keeps them: if any picture has
    some, all are `H W 4`.
    """
    colour = transparency.parse_colour(background) if background is not None else None
    images, notes = {}, defaultdict(dict)  # names of pictures by note, without repeats
    for frame, path in paths.items():
        with suppress(OSError):  # the reader says which
            if path.is_dir() or not path.exists():
                fault = "is a folder" if path.exists() else "does not exist"
                raise UserError(f"{path} {fault}; {EXPECTED}")
        try:
            picture = transparency.read(path)
        except Unreadable as error:
            reason = error.reason.removeprefix("cannot be read: ")
            raise UserError(f"{path} cannot be read: {reason}; {EXPECTED}") from None
        image = picture.pixels
        if image.shape[2] == 4 and colour:
            how = "shown on" if image[..., 3].any() else "wholly:"
            picture.notes.append(f"transparent, {how} {background}")
            image = transparency.over(image, colour)
        for note in picture.notes:
            notes[note][str(path)] = None
        size = size_text(image)
        if min(image.shape[:2]) < MIN_SIDE:
            raise UserError(f"{path} is {size} pixels; expected at least {MIN_SIDE}x{MIN_SIDE}")
        first = images.get(0, image)
        if image.shape[:2] != first.shape[:2]:
            notes[f"scaled to {size_text(first)}, {FITTED}"][f"{path} ({size})"] = None
            image = frames.canvas(image, *first.shape[:2], "crop")
        images[frame] = image
    for note, names in notes.items():
        say(f"{', '.join(names)}: {note}")
    if any(image.shape[2] == 4 for image in images.values()):
        for frame, image in images.items():
            opaque = np.full_like(image[..., :1], 255)
            images[frame] = np.concatenate([image, opaque], axis=2)[..., :4]
    return images
