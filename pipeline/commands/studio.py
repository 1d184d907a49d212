"""What the web app draws: its fields in, the files of a clip out; one at a time.

The fields become options of `generate`, whose code checks and draws. PNG files are drawn first; the
mp4, the GIF, a preview that every browser plays and a strip of frames are made of them, on white.
"""

import argparse
import math
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline import config, frames, io
from pipeline.commands import generate
from pipeline.errors import OUT_OF_MEMORY, UserError
from pipeline.inference.clip import check_memory, conversions
from pipeline.inference.inbetweener import InBetweener
from pipeline.inference.keyframes import read_pictures
from pipeline.video import clip_writer
from pipeline.video.pictures import FORMATS
from pipeline.video.transparency import WHITE, over
from pipeline.video.writer import write_video

MAX_SAMPLES, MAX_FPS, MAX_KEYFRAMES = 8, 240, 20
LABELS = {  # of generate's options, on the page and in its messages
    "first": "First picture",
    "last": "Last picture",
    "frame": "Keyframe",
    "n_frames": "Frames",
    "on": "Drawings held on",
    "ease": "Easing",
    "fps": "Frames a second",
    "seed": "Seed",
    "samples": "Samples",
    "best_of": "Samples",
    "temperature": "Temperature",
    "mode": "Mode",
}
MODES = "parallel", "maskgit"
PREVIEW, STRIP = "preview.mp4", "strip.png"
PREVIEW_WIDTHS = 640, 1280  # a small picture is enlarged, as yuv420p halves its colours
STRIP_COLUMNS, STRIP_ROWS, THUMB_WIDTH = 5, 4, 256


class Studio:
    """Draws clips for the page, one at a time."""

    def __init__(
        self, model: InBetweener, settings: config.Params, folder: Path, limits: argparse.Namespace
    ) -> None:
        self.model, self.settings, self.folder, self.limits = model, settings, folder, limits
        self.turn, self.stopped = threading.Lock(), False

    def stop(self) -> None:
        """Ends the drawing under way, and waits for its end; predicting tokens may take longer."""
        self.stopped = True
        self.turn.acquire(timeout=10)  # seconds; after them nothing is written any more

    def draw(self, fields: dict[str, Any], progress: Callable) -> tuple[str, str, list[str], str]:
        """Paths of a preview, a strip and the downloads, and lines about them.

        fields: as the page sends them. Raises UserError, one sentence in the page's words.
        """
        names: dict[str, str] = {}
        try:
            options = self._options(fields, names)
            with self.turn, io.temporary(self.folder, Path.mkdir) as work:
                files, lines = self._draw(options, work, progress)
                if self.limits.out:
                    lines.append(f"kept in {keep(files, self.limits.out)}")
                place = work.rename(tempfile.mkdtemp(dir=self.folder))
        except (UserError, OSError, MemoryError, RuntimeError) as error:
            if isinstance(error, OSError):
                error = f"the clip could not be written ({error.strerror}); free some space"
            elif isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
                error = "not enough memory; choose smaller pictures or fewer frames"
            elif isinstance(error, RuntimeError):
                raise
            raise UserError(_in_words(str(error), names)) from None
        shown = [str(place / name) for name in (PREVIEW, STRIP)]
        downloads = [str(place / file.name) for file in files]
        return *shown, downloads, _in_words("\n".join(lines), names)

    def _options(self, fields: dict[str, Any], names: dict[str, str]) -> argparse.Namespace:
        """The fields as generate's options; `names` gets the pictures' own names by path."""
        options, best = generate.parser().parse_args(["--out", "frames"]), bool(fields["best"])
        for name, kind, low, high in (
            ("n_frames", int, 3, self.limits.max_frames),
            ("on", int, -math.inf, math.inf),  # generate knows the limits
            ("fps", float, 1, MAX_FPS),
            ("seed", int, -math.inf, math.inf),
            ("samples", int, 1 + best, MAX_SAMPLES),
            ("temperature", float, -math.inf, math.inf),
            ("ease", float, -math.inf, math.inf),
        ):
            value = fields[name]
            if name == "ease" and value in (None, "", "learnt"):
                continue
            number = _number(name, value, kind)
            if not low <= number <= high:
                raise UserError(f"--{name} {generate.short(number)}: expected {low} to {high}")
            setattr(options, name, number)
        if best:
            options.best_of, options.samples = options.samples, 1
        options.mode = fields["mode"]
        if options.mode not in MODES:
            raise UserError(f"--mode {options.mode}: expected {' or '.join(MODES)}")
        for name in ("first", "last"):
            if not fields[name]:
                raise UserError(f"the {name} picture is missing; upload one")
            setattr(options, name, self._picture(fields[name], names))
        files = fields["more"] if isinstance(fields["more"], list) else []
        if len(files) > MAX_KEYFRAMES:
            raise UserError(f"{len(files)} further keyframes: expected at most {MAX_KEYFRAMES}")
        at = re.findall(r"[^,;\s]+", str(fields["at"] or ""))
        if len(at) != len(files) or not all(re.fullmatch("[0-9]{1,9}", number) for number in at):
            raise UserError(
                f"frames of the further keyframes: {' '.join(at) or 'none'}; expected a number for "
                f"each of the {len(files)} pictures, such as 5, 12"
            )
        for number, file in zip(at, files, strict=True):
            options.frame.append(f"{number}={self._picture(file, names)}")
        return options

    def uploaded(self, file: Any) -> Path:
        """Where a file of the page lies. UserError for any other of this machine, and addresses."""
        with suppress(KeyError, TypeError, ValueError, OSError, RuntimeError):
            path = Path(file["path"]).resolve()
            if path.is_relative_to(self.folder):
                return path
        raise UserError("expected uploaded pictures, no addresses and no other files; upload them")

    def _picture(self, file: Any, names: dict[str, str]) -> Path:
        path = self.uploaded(file)
        name = re.sub(r"[<>&\s]+", " ", Path(str(file.get("orig_name") or path)).name)  # no HTML
        names[str(path)], pixels = name, 0
        with suppress(Exception), Image.open(path, formats=FORMATS) as image:
            pixels = image.width * image.height  # of what is broken, the reader says it
        if pixels > self.limits.max_megapixels * 1e6:
            raise UserError(
                f"{name} has {pixels / 1e6:.3g} million pixels; expected at most "
                f"{self.limits.max_megapixels:g} million"
            )
        return path

    def _draw(
        self, options: argparse.Namespace, work: Path, progress: Callable
    ) -> tuple[list[Path], list[str]]:
        """Fills the folder `work`; gives the downloads in it, and lines about them."""
        decoding, paths = generate.checked(options, self.settings)
        notes: list[str] = []
        images = read_pictures(paths, notes.append, None)
        clip = generate.clip_to_draw(self.model, images, options, decoding)
        shown = [clip.shown(image) for image in clip.large.values()]
        n_frames = max(images) + 1
        if clip.has_alpha:
            notes.append("transparent parts are kept in the PNG files, and on white elsewhere")
        check_memory(clip, n_frames)
        total, done = generate.n_drawings(clip, options), 0

        def advance(count: int) -> None:
            nonlocal done
            if self.stopped:
                raise UserError("the app is being stopped; start it again")
            done += count
            progress((done, total), desc="drawing", unit="frames")

        with io.temporary(work, Path.mkdir) as frames_folder:
            names = [f"clip_{k + 1}" for k in range(options.samples)]
            if options.samples == 1:
                names = ["clip"]
            folders = [frames_folder / name for name in names]
            on_white, count = [over(image, WHITE) for image in shown], len(names)
            for out, pictures in ((folders[0], shown), (work / "clip.gif", on_white)):
                notes += clip_writer.check_content(out, pictures, n_frames, 3 * count, options.fps)
            advance(0)
            generate.write_clips(clip, folders, options, decoding, advance)
            progress(None, desc="writing the downloads")
            samples = [sorted(folder.iterdir()) for folder in folders]
            write_video(work / PREVIEW, previews(samples), options.fps)
            strip(samples).save(work / STRIP)
            files = []
            for name, sample in zip(names, samples, strict=True):
                for path in (work / f"{name}.mp4", work / f"{name}.gif"):
                    clip_writer.write_clip(map(_read, sample), n_frames, path, options.fps)
                    files.append(path)
                archive = shutil.make_archive(work / f"{name}_png", "zip", frames_folder, name)
                files.append(Path(archive))
        height, width = shown[0].shape[:2]
        lines = [f"{n_frames} frames of {width} x {height} pixels"]
        return files, [*lines, *notes, *conversions(clip, images, options.on)]


def _number(name: str, value: Any, kind: type) -> int | float:
    try:
        number = kind(value)
        if isinstance(value, float) and number != value:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        whole = "a whole number" if kind is int else "a number"
        shown = "is empty" if value in (None, "") else generate.short(value)
        raise UserError(f"--{name} {shown}: expected {whole}") from None
    return number


def _in_words(text: str, names: dict[str, str]) -> str:
    """generate's sentence with the page's labels for its options, and the pictures' own names."""
    for path, name in names.items():
        text = text.replace(path, name)
    return re.sub(
        "--([a-z_-]+)", lambda found: LABELS.get(found[1].replace("-", "_"), found[0]), text
    )


def _read(path: Path) -> np.ndarray:
    """uint8 `H W 3`."""
    with Image.open(path) as image:
        return over(np.array(image), WHITE)


def previews(samples: list[list[Path]]) -> Iterator[np.ndarray]:
    """Frames for a player, of even sides; several samples beside and below each other."""
    columns = math.ceil(math.sqrt(len(samples)))
    for paths in zip(*samples, strict=True):
        images = [_read(path) for path in paths]
        images += [np.full_like(images[0], 255)] * (-len(images) % columns)
        rows = [np.hstack(images[k : k + columns]) for k in range(0, len(images), columns)]
        image = np.vstack(rows)
        height, width = image.shape[:2]
        scale = np.clip(width, *PREVIEW_WIDTHS) / width
        yield frames.resize(
            image, *(2 * max(1, round(scale * side / 2)) for side in (height, width))
        )


def strip(samples: list[list[Path]]) -> Image.Image:
    """Frames with their numbers, spread over the clip; several samples below each other."""
    n_frames = len(samples[0])
    most = STRIP_COLUMNS * (STRIP_ROWS if len(samples) == 1 else 1)
    numbers = np.linspace(0, n_frames - 1, min(n_frames, most)).round().astype(int)
    shown = [(number, sample[number]) for sample in samples for number in numbers]
    columns = min(STRIP_COLUMNS, len(numbers))
    height, width = _read(shown[0][1]).shape[:2]
    height, gap, label = max(1, round(THUMB_WIDTH * height / width)), 8, 32
    step = THUMB_WIDTH + gap, height + label
    sheet = Image.new("RGBA", (columns * step[0], -(-len(shown) // columns) * step[1]))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(26)
    for k, (number, path) in enumerate(shown):
        left, top = k % columns * step[0], k // columns * step[1]
        sheet.paste(Image.fromarray(frames.resize(_read(path), height, THUMB_WIDTH)), (left, top))
        draw.text((left + THUMB_WIDTH / 2, top + height + 2), str(number), "grey", font, "ma")
    return sheet


def keep(files: list[Path], folder: Path) -> Path:
    """Copies finished clips to the first free one of clip_0001, clip_0002, ... in `folder`."""
    number = 1
    with io.temporary(folder, Path.mkdir) as partial:
        for file in files:
            shutil.copy(file, partial)
        while (kept := folder / f"clip_{number:04d}").exists():
            number += 1
        return partial.rename(kept)
