"""Draws the in-between frames of given images: a clip as mp4, gif or PNG files.

    python -m pipeline generate --first a.png --last b.png --n-frames 20 --out clip.mp4

Needs the models that `dvc repro` leaves in models/. The given images are frames of the clip, its
first and its last among them. The frames between them are predicted at the model's size and drawn
at the output's size.
"""

import argparse
import os
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline import config, frames, progress, runtime
from pipeline.config import Decoding
from pipeline.errors import UserError
from pipeline.inference import keyframes
from pipeline.inference.inbetweener import InBetweener
from pipeline.inference.keyframes import Segment
from pipeline.models.flow import MAX_EXPONENT, Easing, consistent_share
from pipeline.video.folder import Unreadable
from pipeline.video.pictures import EXPECTED, FITTED, read_picture, size_text
from pipeline.video.writer import write_video

VQGAN, GPT2 = Path("models/vqgan"), Path("models/gpt2")
# Keyframes that differ by more grey levels, with a less consistent flow, are taken for a cut.
CUT_CHANGE, CUT_CONSISTENT = 12.0, 0.12
MIN_SIDE = 16  # pixels of a given picture
SOFTWARE = "nakawari"  # text in each PNG that is written
FRAME_NAME = re.compile(r"frame_\d{4,}\.png")
# Half the colour resolution, as video has it, would keep flat drawings to 28-40 dB at any crf.
EXACT = {"crf": 8, "pix_fmt": "yuv444p"}  # at least 42 dB, on noise


def main(words: list[str] | None = None) -> None:
    arguments = _parser().parse_args(words)
    settings = config.load()
    paths = keyframes.given_frames(
        arguments.first, arguments.last, arguments.frame, arguments.n_frames
    )
    options = {name: getattr(arguments, name) for name in Decoding.model_fields}
    options = {name: value for name, value in options.items() if value is not None}
    decoding = settings.evaluate.decoding.model_copy(update=options)
    _check_numbers(arguments, decoding)
    outs = [arguments.out]
    if arguments.samples > 1:  # clip_1.mp4, clip_2.mp4, ...
        numbers = range(1, arguments.samples + 1)
        outs = [arguments.out.with_stem(f"{arguments.out.stem}_{k}") for k in numbers]
    for out in outs:
        _check_out(out, list(paths.values()))
    images = read_pictures(paths)

    model = load_models(runtime.prepare(settings.base), settings.base.precision)
    size = output_size(arguments.size, images[0].shape[:2], model.ingest)
    if arguments.ease and not model.has_context:
        raise UserError(
            f"--ease {arguments.ease:g}: this model warps no keyframes, so they have no timing; "
            "train it with vqgan.context = keyframes, or leave the option out"
        )
    if arguments.ease:
        model.easing = Easing.fixed(arguments.ease)
    segments = keyframes.segments(images, arguments.on)
    _warn_of_cuts(model, images, segments)

    n_samples = arguments.best_of or arguments.samples
    total = keyframes.frames_to_draw(segments) * n_samples
    best = None
    with progress.bar(what="drawing", unit="frame", total=total) as bar:
        for k in range(n_samples):
            generator = torch.Generator().manual_seed(arguments.seed + k)
            clip = make_clip(model, images, segments, size, decoding, generator, bar.update)
            if not arguments.best_of:
                write_clip(clip, outs[k], arguments.fps)
            elif best is None or keyframes.last_step(clip) < keyframes.last_step(best):
                best = clip
        if best is not None:
            write_clip(best, arguments.out, arguments.fps)
    height, width = clip.shape[1:3]
    for out in outs:
        print(f"{out}: {len(clip)} frames of {height}x{width}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument_group("given frames").add_argument
    first = "image of frame 0; the others get its size, their edges cropped to its aspect"
    add("--first", type=Path, help=first)
    add("--last", type=Path, help="image of the last frame")
    known = "image of any other frame, such as 9=mid.png, counted from 0; may be repeated"
    add("--frame", action="append", default=[], metavar="INDEX=IMAGE", help=known)
    length = f"frames of the clip; default: {keyframes.N_FRAMES}, or the largest --frame plus 1"
    add("--n-frames", type=int, help=length)
    add("--on", type=int, default=1, help="frames that each drawing is held; 2: on twos")
    add = parser.add_argument_group("output").add_argument
    add("--out", type=Path, required=True, help="clip.mp4, clip.gif, or a folder for PNG files")
    add("--size", default="input", help="input (default), model, or HxW with the height first")
    add("--fps", type=float, default=24.0, help="frames a second of mp4 and gif")
    add("--samples", type=int, default=1, help="number of clips: clip_1.mp4, clip_2.mp4, ...")
    best = "sample so many clips and keep the one that arrives best at the last frame"
    add("--best-of", type=int, metavar="SAMPLES", help=best)
    title = "sampling (defaults: evaluate.decoding in params.yaml)"
    add = parser.add_argument_group(title).add_argument
    add("--mode", choices=("parallel", "maskgit"), help="how the tokens of a frame are predicted")
    add("--steps", type=int, help="steps a frame of mode maskgit")
    add("--temperature", type=float, help="0: greedy; about 1: sampled, so that clips differ")
    add("--top-k", type=int, help="sample from the k most likely tokens; 0: from all")
    add("--top-p", type=float, help="sample from the fewest tokens that make up this share")
    least = "greedy: the decoder does without less likely tokens; 0: it gets all"
    add("--min-confidence", type=float, help=least)
    ease = f"timing: 1 is even, up to {MAX_EXPONENT:g} holds both ends longer; default: learnt"
    add("--ease", type=float, help=ease)
    add("--seed", type=int, default=0, help="random seed; sample k has seed + k - 1")
    return parser


def _check_numbers(arguments: argparse.Namespace, decoding: Decoding) -> None:
    """UserError for a number out of range, or one without effect; NaN is never in range."""
    sampled = decoding.temperature > 0
    steps = arguments.steps is None or decoding.mode in ("auto", "maskgit")
    ease, best_of = arguments.ease, arguments.best_of
    hot = "a temperature above 0, where tokens are sampled; add --temperature 1"
    alike = "1 at temperature 0, where all samples are alike; add --temperature 1"
    timing = f"from 1, even timing, to {MAX_EXPONENT:g}, held until the middle"
    for option, value, allowed, expected in (
        ("on", arguments.on, arguments.on >= 1, "1 or more"),
        ("fps", arguments.fps, 0 < arguments.fps <= 240, "more than 0 and at most 240"),
        ("steps", decoding.steps, decoding.steps >= 1, "1 or more"),
        ("temperature", decoding.temperature, 0 <= decoding.temperature < np.inf, "0 or more"),
        ("top-k", decoding.top_k, decoding.top_k >= 0, "0 or more; 0 takes all tokens"),
        ("top-p", decoding.top_p, 0 < decoding.top_p <= 1, "more than 0 and at most 1"),
        ("min-confidence", decoding.min_confidence, 0 <= decoding.min_confidence <= 1, "0 to 1"),
        ("seed", arguments.seed, abs(arguments.seed) < 2**62, "less than 2^62"),
        ("samples", arguments.samples, arguments.samples >= 1, "1 or more"),
        ("ease", ease, ease is None or 1 <= ease <= MAX_EXPONENT, timing),
        ("samples", arguments.samples, arguments.samples == 1 or sampled, alike),
        ("best-of", best_of, best_of is None or best_of >= 2, "2 or more"),
        ("best-of", best_of, best_of is None or sampled, hot),
        ("best-of", best_of, best_of is None or arguments.samples == 1, "no --samples"),
        ("top-k", arguments.top_k, not arguments.top_k or sampled, hot),
        ("top-p", arguments.top_p, arguments.top_p in (None, 1) or sampled, hot),
        (
            "steps",
            arguments.steps,
            steps,
            "mode maskgit, which alone has steps; add --mode maskgit",
        ),
    ):
        if not allowed:
            raise UserError(f"--{option} {value:g}: expected {expected}")


def _check_out(out: Path, pictures: list[Path]) -> None:
    """Refuses, before anything is generated, an output that is no clip or would cost a file."""
    if out.suffix.lower() not in (".mp4", ".gif", ""):
        raise UserError(
            f"--out {out}: expected a name ending in .mp4 or .gif, or a folder for PNG files"
        )
    if out.suffix and out.is_dir():
        raise UserError(f"--out {out} is a folder; expected the name of a file")
    for picture in pictures:
        if out.resolve() in (picture.resolve(), picture.resolve().parent):
            raise UserError(
                f"--out {out} would replace the given picture {picture}; choose another name"
            )
    existing = next(folder for folder in out.resolve().parents if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"--out {out}: cannot write into {existing}; choose another folder")
    if out.suffix:
        return
    if out.is_file():
        raise UserError(f"--out {out} is a file; expected a new or empty folder")
    foreign = sorted(path.name for path in out.glob("*") if not _is_own_frame(path))
    if foreign:
        raise UserError(
            f"--out {out} holds {foreign[0]}; expected a new folder, an empty one, or one with "
            "frames of an earlier clip"
        )


def _is_own_frame(path: Path) -> bool:
    """Whether this program wrote the file: only such ones may be replaced."""
    if not FRAME_NAME.fullmatch(path.name):
        return False
    try:
        with Image.open(path) as image:
            return image.info.get("Software") == SOFTWARE
    except OSError:
        return False


def read_pictures(paths: dict[int, Path]) -> dict[int, np.ndarray]:
    """uint8 `H W 3` by frame, in the aspect of frame 0; a line for all that was done to them."""
    images, notes = {}, defaultdict(dict)  # names of pictures by note, without repeats
    for frame, path in paths.items():
        if path.is_dir() or not path.exists():
            fault = "is a folder" if path.exists() else "does not exist"
            raise UserError(f"{path} {fault}; {EXPECTED}")
        try:
            picture = read_picture(path)
        except Unreadable as error:
            raise UserError(f"{path} cannot be read: {error.reason}; {EXPECTED}") from None
        for note in picture.notes:
            notes[note][str(path)] = None
        image = picture.pixels
        size = size_text(image)
        if min(image.shape[:2]) < MIN_SIDE:
            raise UserError(f"{path} is {size} pixels; expected at least {MIN_SIDE}x{MIN_SIDE}")
        first = images.get(0, image)
        if image.shape != first.shape:
            notes[f"scaled to {size_text(first)}, {FITTED}"][f"{path} ({size})"] = None
            image = frames.canvas(image, *first.shape[:2], "crop")
        images[frame] = image
    for note, names in notes.items():
        print(f"{', '.join(names)}: {note}", file=sys.stderr)
    return images


def load_models(device: torch.device, precision: str) -> InBetweener:
    missing = [str(path) for path in (VQGAN, GPT2) if not (path / "model.safetensors").is_file()]
    if missing:
        raise UserError(f"no trained model in {' and '.join(missing)}; run `dvc repro` first")
    return InBetweener.load(VQGAN, GPT2, device, precision)


def output_size(choice: str, image: tuple[int, int], ingest: config.FrameSize) -> tuple[int, int]:
    """Height and width of the output, even numbers (H.264 has no odd ones).

    `input`: the size of the first image; `model`: the height of the model's own frames (`ingest`),
    in the first image's aspect.
    """
    exact = re.fullmatch(r"(\d+)x(\d+)", choice)
    if exact:
        height, width = int(exact[1]), int(exact[2])
        if not (16 <= height <= 8192 and 16 <= width <= 8192):
            raise UserError(f"--size {choice}: expected sides from 16 to 8192")
    elif choice == "model":
        height, width = ingest.height, round(ingest.height * image[1] / image[0])
    elif choice == "input":
        height, width = image
    else:
        raise UserError(f"--size {choice}: expected model, input, or HxW such as 256x512")
    return max(16, height - height % 2), max(16, width - width % 2)


def _warn_of_cuts(
    model: InBetweener, images: dict[int, np.ndarray], segments: list[Segment]
) -> None:
    """A line on stderr for each pair of keyframes that has nothing in common."""
    if not model.has_context:
        return
    size = (model.ingest.height, model.ingest.width, model.ingest.fit)
    for segment in segments:
        if not segment.drawn:
            continue
        first = torch.from_numpy(frames.fit(images[segment.first], *size).copy())  # H W 3
        last = torch.from_numpy(frames.fit(images[segment.last], *size).copy())
        change = float((first.float() - last.float()).abs().mean())
        if change > CUT_CHANGE and consistent_share(model.flow(first, last)) < CUT_CONSISTENT:
            print(
                f"frames {segment.first} and {segment.last} have little in common, as across a "
                "cut, and are cross-faded; cut there, or give a frame between",
                file=sys.stderr,
            )


def make_clip(
    model: InBetweener,
    images: dict[int, np.ndarray],
    segments: list[Segment],
    size: tuple[int, int],
    decoding: Decoding,
    generator: torch.Generator,
    advance: Callable[[int], object],
) -> np.ndarray:
    """uint8 `n H W 3`, H W = size; the images are the frames of their numbers, resized.

    A model trained with `fit: crop` knows the middle of the images only, and the clip shows that.
    """
    height, width, fit = model.ingest.height, model.ingest.width, model.ingest.fit
    large, small = {}, {}  # uint8 H W 3 of the output's and the model's size
    for frame, image in images.items():
        large[frame] = frames.even(frames.canvas(frames.resize(image, *size), height, width, fit))
        small[frame] = frames.resize(large[frame], height, width)

    def batch(sizes: dict[int, np.ndarray], indices: list[int]) -> torch.Tensor:
        return torch.from_numpy(np.stack([sizes[index] for index in indices]))  # B H W 3

    drawn = [segment for segment in segments if segment.drawn]
    first, last = [segment.first for segment in drawn], [segment.last for segment in drawn]
    clips = []
    if drawn:
        clips = model.generate(
            batch(small, first),
            batch(small, last),
            [segment.n_drawings for segment in drawn],
            decoding=decoding,
            generator=generator,
            large=(batch(large, first), batch(large, last)),
            advance=advance,
        )
    drawings = dict(zip(first, clips, strict=True))  # uint8 n H W 3 by a segment's first frame
    clip = []
    for segment in segments:
        if segment.drawn:
            clip += [drawings[segment.first][k].numpy() for k in segment.shown]
        else:
            clip += [large[segment.first] for _ in segment.shown]
    clip.append(large[segments[-1].last])
    if fit == "pad":
        clip = [frames.without_bars(frame, *size) for frame in clip]
    return np.stack(clip)


def write_clip(clip: np.ndarray, out: Path, fps: float) -> None:
    """mp4, gif or a folder of frame_0000.png, ...; complete or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix.lower() == ".mp4":
        write_video(out, iter(clip), Fraction(fps).limit_denominator(1001), **EXACT)
        return
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        if out.suffix:
            images = [Image.fromarray(frame) for frame in clip]
            images[0].save(
                partial,
                format="GIF",
                save_all=True,
                append_images=images[1:],
                duration=max(20, round(1000 / fps)),  # players slow down what is shorter
                loop=0,
            )
        else:
            partial.mkdir()
            mark = PngInfo()
            mark.add_text("Software", SOFTWARE)
            for number, frame in enumerate(clip):
                path = partial / f"frame_{number:04d}.png"
                Image.fromarray(frame).save(path, pnginfo=mark)
            shutil.rmtree(out, ignore_errors=True)
        partial.replace(out)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)
