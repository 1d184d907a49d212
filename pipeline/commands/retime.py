"""Draws more frames a second into a film, by in-betweens of its own drawings.

    python -m pipeline retime in.mp4 out.mp4 --factor 2     24 frames a second become 48
    python -m pipeline retime in.mp4 out.mp4 --fps 60       any rate
    python -m pipeline retime in.mp4 out.mp4 --on 1         the rate stays, held drawings are filled

A film on twos, A A B B, is shown at 24 frames a second:

    --factor 2                 A  a1 a2 a3 B ...   the motion from A to B takes all of A's time
    --factor 2 --holds keep    A  A  A  a2 B ...   A is held as long, only the step to B is softened
    --on 1                     A  a2 B ...         a drawing a frame

A drawing that rests longer than a sixth of a second moves in its last sixth only. Nothing is drawn
across a cut, nor between drawings that have little in common. Sound, length and colours are kept.
The film is read twice: for cuts and held drawings at the model's size, then to be drawn, some
frames at a time. Finished parts lie in out.mp4.parts until the end: after a kill the same command
continues. Needs the models that `dvc repro` leaves in models/.
"""

import argparse
import fcntl
import itertools
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from pipeline import config, io, progress, runtime
from pipeline.commands.generate import GPT2, VQGAN, load_models
from pipeline.data.detector_features import DELTAS, FrameTerms, block_change, detector_size
from pipeline.data.detectors import make_detector
from pipeline.data.ingest import content_hash
from pipeline.errors import UserError
from pipeline.inference.clip import PIXEL_BYTES
from pipeline.inference.inbetweener import InBetweener
from pipeline.inference.retiming import (
    GREATEST_RATE,
    Drawer,
    Film,
    Plan,
    even_times,
    make_plan,
    pictures,
    uneven,
)
from pipeline.models.flow import EVEN
from pipeline.video import clip_writer, decode, film_writer
from pipeline.video.film_writer import Look, join, read_look, write_part
from pipeline.video.folder import Unreadable
from pipeline.video.probe import Header, Reading, parse_fps, probe

EXPECTED = "expected a film, such as an mp4"
PREVIEW_SECONDS = 10.0
PART_FRAMES = 48  # of the output: what a kill can cost
RATE = re.compile(r"0*\d{1,3}(\.\d{0,9})?|\d{1,9}/0*[1-9]\d{0,8}", re.ASCII)
MIN_SIDE = 16
PIXEL_SHARE = 0.002  # bytes that a pixel takes in the output, at least
VERSION = 2  # of what parts hold


def main(words: list[str] | None = None) -> None:
    arguments = parser().parse_args(words)
    try:
        retime(arguments)
    except Unreadable as error:
        reason = error.reason.removeprefix("cannot be read: ")
        raise UserError(f"{arguments.film} cannot be read: {reason}; {EXPECTED}") from None
    except (decode.Truncated, decode.Killed) as error:
        raise UserError(
            f"{arguments.film} cannot be read whole: {error}; mend it, or cut it there"
        ) from None


def retime(arguments: argparse.Namespace) -> None:
    path, out, start = arguments.film, arguments.out, arguments.preview
    settings = config.load()
    _check(arguments)
    header = probe(path, Reading(deinterlace=True))
    look = read_look(path, header)
    wish = _rate(arguments, header)
    _check_size(path, header)
    if start and header.duration and start >= header.duration:
        raise UserError(
            f"--preview {start:g}: expected a second of the film, which has {header.duration:.1f}"
        )
    model = load_models(runtime.prepare(settings.base), settings.base.precision)
    if not model.has_context:
        raise UserError(
            "the model in models/ draws frames of its own size only; train one with "
            "vqgan.context = keyframes"
        )
    model.easing = EVEN  # drawings of a film have their timing; the learnt one is of far keyframes

    parts = Path(f"{out}.parts" if start is None else f"{out}.preview.parts")
    chosen = [arguments.factor, str(wish), arguments.on, arguments.holds, start]
    with _kept(parts, [*chosen, *_identity(path, settings)]):
        notes = [*header.notes, *look.notes]
        film = first_reading(path, header, model, settings, start, parts / "film.npz", notes)
        rate = wish or film.fps * (arguments.factor or 1)
        plan = make_plan(film, rate, arguments.on or 1, arguments.holds == "keep")
        height, width = (side + side % 2 for side in header.decoded_size)
        if (height, width) != header.decoded_size:
            notes.append(f"padded to {height}x{width} (height x width): mp4 wants even sides")
        if uneven(film.times, film.fps):
            notes.append(f"variable frame rate: written with {float(rate):.5g} frames a second")
        needed = len(plan.left) * height * width * PIXEL_SHARE
        if needed > shutil.disk_usage(parts).free:
            raise UserError(
                f"{out} would take more than {needed / 1e6:,.0f} MB, which are not free there; "
                "free some, or choose another folder"
            )
        for note in dict.fromkeys(notes):
            if not note.startswith("no colour matrix"):  # and none will be
                print(f"{path}: {note}", file=sys.stderr)
        begun, draw = time.monotonic(), Drawer(model)
        names, n_drawn = _draw_parts(path, header, film, plan, draw, parts, rate, look)
        seconds = time.monotonic() - begun
        length = None if start is None else PREVIEW_SECONDS
        delay = max(0.0, float(film.times[0]) - (start or 0.0))
        for note in join(names, out, rate, path, start or 0.0, length, delay):
            print(f"{path}: {note}", file=sys.stderr)
    if draw.n_unlike:
        print(f"{draw.n_unlike} frames are held: those beside have little in common")
    print(
        f"{out}: {len(plan.left)} frames of {height}x{width}, {float(rate):.5g} a second; "
        f"{n_drawn} drawn in {seconds:.0f} s"
    )


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline retime",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "film",
        type=Path,
        help="a film, such as mp4, mkv or webm; a name that begins with - after --",
    )
    add("out", type=Path, help="out.mp4; replaces an earlier one of this program, no other file")
    add = parser.add_mutually_exclusive_group(required=True).add_argument
    add("--factor", type=int, help="times the frames a second of the film: 2 to 16")
    add("--fps", help=f"frames a second, such as 48, 23.976 or 60000/1001; up to {GREATEST_RATE}")
    add("--on", type=int, help="the film's rate, and a drawing every so many frames of a scene")
    add = parser.add_argument
    holds = "fill (default): motion over the time of a held drawing; keep: hold it as in the film"
    add("--holds", choices=("fill", "keep"), default="fill", help=holds)
    preview = f"{PREVIEW_SECONDS:g} seconds only, from that second of the film on; default: 0"
    add("--preview", type=float, nargs="?", const=0.0, metavar="SECOND", help=preview)
    return parser


def _check(arguments: argparse.Namespace) -> None:
    """UserError for what is wrong before the film is opened."""
    film, out = arguments.film, arguments.out
    for option, value, low, high in (
        ("factor", arguments.factor, 2, 16),
        ("on", arguments.on, 1, 100),
        ("preview", arguments.preview, 0, 1e6),
    ):
        if value is not None and not low <= value <= high:
            raise UserError(f"--{option} {value}: expected {low} to {high:g}")
    if arguments.on and arguments.holds == "keep":
        raise UserError("--holds keep: expected fill, as --on fills held drawings; leave it out")
    if film.is_dir() or not film.exists():
        fault = "is a folder" if film.is_dir() else "does not exist"
        raise UserError(f"{film} {fault}; {EXPECTED}")
    if out.exists() and out.samefile(film):
        raise UserError(f"{out} is the film itself; choose another name for the output")
    film_writer.check(out)


def _rate(arguments: argparse.Namespace, header: Header) -> Fraction | None:
    """Frames a second of the output, where they do not depend on the film."""
    text = arguments.fps
    if text is None:
        fastest = header.fps * (arguments.factor or 1)
        if fastest > GREATEST_RATE:
            raise UserError(
                f"{arguments.film} would have {float(fastest):g} frames a second; expected at "
                f"most {GREATEST_RATE}; choose --fps"
            )
        return None
    rate = Fraction(0)
    if RATE.fullmatch(text):  # the text first: 1e999999999 would take forever
        rate = Fraction(text)
        if 1 <= rate <= GREATEST_RATE and "/" not in text:
            rate = parse_fps(f"{float(rate):f}")  # 23.976 means 24000/1001
    if not 1 <= rate <= GREATEST_RATE or rate.denominator > 1001:
        given = text[:20] or "''"
        raise UserError(f"--fps {given}: expected 1 to {GREATEST_RATE}, such as 48 or 23.976")
    return rate


def _check_size(film: Path, header: Header) -> None:
    sides = header.decoded_size
    if not MIN_SIDE <= min(sides) <= max(sides) <= clip_writer.LARGEST_SIDE:
        raise UserError(
            f"{film} has frames of {sides[0]}x{sides[1]} (height x width); expected sides from "
            f"{MIN_SIDE} to {clip_writer.LARGEST_SIDE}"
        )
    needed, free = sides[0] * sides[1] * PIXEL_BYTES / 1e9, runtime.free_memory() / 1e9
    if needed > free:
        raise UserError(
            f"{film} has frames of {sides[0]}x{sides[1]}, which need about {needed:.1f} GB of "
            f"memory, and {free:.1f} GB are free; free some, or make the film smaller"
        )


def _identity(film: Path, settings: config.Params) -> list:
    """Whatever else parts depend on."""
    models = [content_hash(folder / "model.safetensors", False) for folder in (VQGAN, GPT2)]
    found = [settings.scene_split.model_dump(mode="json"), settings.frame_subsample.hold_threshold]
    return [VERSION, content_hash(film, False), *models, *found, *decode.version()]


@contextmanager
def _kept(parts: Path, identity: list) -> Iterator[None]:
    """A folder for parts, ours alone: what is of the same film, model and options is taken up.

    It goes at the end, or where an error comes before there is anything worth keeping.
    """
    label = parts / "identity.json"
    identity = json.dumps(identity)
    if parts.exists() and not (parts.is_dir() and (label.is_file() or not any(parts.iterdir()))):
        raise UserError(f"{parts} exists and holds no parts of a film; move it away")
    parts.mkdir(parents=True, exist_ok=True)
    handle = os.open(parts, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process
        except BlockingIOError:
            raise UserError(
                f"{parts} is in use by another run; wait for its end, or choose another name for "
                "the output"
            ) from None
        except OSError:
            pass  # a file system without locks
        if label.is_file() and label.read_text() != identity:
            print(f"{parts} was of another film, model or choice: begun anew", file=sys.stderr)
            for path in parts.iterdir():
                path.unlink()
        io.remove_stale(parts)
        with io.atomic(label) as partial:
            partial.write_text(identity)
        try:
            yield
        except BaseException as error:
            worth = "*.h264" if isinstance(error, UserError) else "[!i]*"
            if not any(parts.glob(worth)):
                shutil.rmtree(parts, ignore_errors=True)
            raise
        shutil.rmtree(parts)
    finally:
        os.close(handle)


def first_reading(
    path: Path,
    header: Header,
    model: InBetweener,
    settings: config.Params,
    start: float | None,
    saved: Path,
    notes: list[str],
) -> Film:
    """Cuts and drawings of a film, or of a preview's seconds; a second run takes what is saved."""
    if saved.is_file():
        with np.load(saved) as known:
            rate = Fraction(*map(int, known["fps"]))
            return Film(known["times"], known["new"], known["cut"], int(known["first"]), rate)
    rules = settings.scene_split.model_copy(update={"detector": "content"})
    limit = settings.frame_subsample.hold_threshold
    terms, rows = FrameTerms(), {name: [] for name in (*DELTAS, "at")}
    new, held, first = [], None, 0
    small = model.ingest.height, model.ingest.width
    sizes = small, detector_size(header.height, header.width)
    end = np.inf if start is None else start + PREVIEW_SECONDS
    total = header.expected_frames if start is None else round(PREVIEW_SECONDS * header.fps)
    with (
        progress.bar(what="cuts and drawings", unit="frame", total=total or None) as bar,
        closing(decode.decode(path, header, *sizes, notes)) as batches,
    ):
        try:
            for images, samples, times in batches:
                inside = (times >= (start or 0.0) - 1e-6) & (times < end) if start else times < end
                first += 0 if new else int((~inside & (times < end)).sum())
                if times[0] >= end:
                    break
                if not inside.any():
                    continue
                measured = terms.measure(images[inside], samples[inside], times[inside])
                for name in DELTAS:
                    rows[name].append(measured[name])
                rows["at"].append(times[inside])
                for image, step in zip(images[inside], measured["block_change"], strict=True):
                    repeats = step <= limit and held is not None
                    repeats = repeats and block_change(image, held) <= limit
                    held = held if repeats else image
                    new.append(not repeats)
                bar.update(int(inside.sum()))
        except decode.Damaged as error:
            notes.append(str(error))
    if not new:
        raise UserError(f"{path} has no frame from second {start:g} on; choose an earlier one")
    columns = {name: np.concatenate(values) for name, values in rows.items()}
    footage = SimpleNamespace(term=columns.__getitem__)
    detector = make_detector(rules)
    cut = np.zeros(len(new), bool)
    cut[detector.cuts(footage, detector.scores(footage))] = True
    cut[0] = True
    times, fps = even_times(columns["at"], header.fps)
    film = Film(times, np.array(new) | cut, cut, first, fps)
    with io.atomic(saved) as partial, partial.open("wb") as file:
        fraction = np.array([fps.numerator, fps.denominator])
        np.savez(file, **film._replace(fps=fraction)._asdict())
    return film


class Reader:
    """Frames of a film by number, uint8 `H W 3`, never going back by more than one of those given.

    Sides are made even: the last row and column are repeated.
    """

    def __init__(self, batches: Iterator[decode.Batch], first: int) -> None:
        images = (image for batch in batches for image in batch.images)
        self._images = enumerate(images, -first)
        self._kept: dict[int, np.ndarray] = {}

    def __call__(self, number: int) -> np.ndarray:
        if number not in self._kept:
            image = next((image for k, image in self._images if k == number), None)
            if image is None:
                raise UserError("the film ends earlier than a moment ago; run the command again")
            height, width = image.shape[:2]
            if height % 2 or width % 2:
                image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
            self._kept = dict([*self._kept.items()][-1:]) | {number: image}
        return self._kept[number]


def _draw_parts(
    path: Path,
    header: Header,
    film: Film,
    plan: Plan,
    draw: Drawer,
    folder: Path,
    rate: Fraction,
    look: Look,
) -> tuple[list[Path], int]:
    """Writes the parts that lack; all their names, and how many frames were drawn."""
    drawn = plan.left != plan.right
    n_parts = max(1, len(drawn) // PART_FRAMES)  # the last one is longer
    ends = [*range(0, n_parts * PART_FRAMES, PART_FRAMES), len(drawn)]
    parts = {folder / f"{a:08d}.h264": range(a, b) for a, b in itertools.pairwise(ends)}
    lacking = {name: rows for name, rows in parts.items() if not name.is_file()}
    n_drawn = sum(int(drawn[rows.start : rows.stop].sum()) for rows in lacking.values())
    with (
        progress.bar(what="drawing", unit="frame", total=int(drawn.sum())) as bar,
        closing(decode.decode(path, header, header.decoded_size, (1, 1))) as batches,
    ):
        bar.n = bar.initial = bar.total - n_drawn
        reader = Reader(batches, film.first)
        for name, rows in lacking.items():
            write_part(name, pictures(reader, plan, rows, draw, bar.update), rate, look)
    return [*parts], n_drawn
