"""Draws the in-between frames of given images: a clip as mp4, gif, webp or PNG files.

    python -m pipeline generate --first a.png --last b.png --n-frames 20 --out clip.mp4

Needs the models that `dvc repro` leaves in models/. The given images are frames of the clip, its
first and its last among them. The frames between them are predicted at the model's size and drawn
at the output's size.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pipeline import config, progress, runtime
from pipeline.config import Decoding
from pipeline.errors import UserError
from pipeline.inference import keyframes
from pipeline.inference.clip import Clip, TokenIds, check_memory, conversions, output_size, timed
from pipeline.inference.inbetweener import InBetweener
from pipeline.models.flow import MAX_EXPONENT
from pipeline.models.gpt.sampling import resolve_mode
from pipeline.video import clip_writer

VQGAN, GPT2 = Path("models/vqgan"), Path("models/gpt2")


def main(words: list[str] | None = None) -> None:
    arguments = parser().parse_args(words)
    settings = config.load()
    decoding, paths = checked(arguments, settings)
    outs = [arguments.out]
    if arguments.samples > 1:  # clip_1.mp4, clip_2.mp4, ...
        if arguments.out.name in ("", ".."):
            raise UserError(f"--out {arguments.out}: expected a name, to be followed by numbers")
        numbers = range(1, arguments.samples + 1)
        outs = [arguments.out.with_stem(f"{arguments.out.stem}_{k}") for k in numbers]
    for out in outs:
        clip_writer.check(out, paths.values())
    background = arguments.background
    if background is None and outs[0].suffix.lower() not in clip_writer.KEEPS_ALPHA:
        background = "white"
    images = keyframes.read_pictures(paths, say, background)

    model = load_models(runtime.prepare(settings.base), settings.base.precision)
    clip = clip_to_draw(model, images, arguments, decoding)
    shown = [clip.shown(image) for image in clip.large.values()]
    n_frames = max(images) + 1
    lines = clip_writer.check_content(outs[0], shown, n_frames, arguments.samples, arguments.fps)
    check_memory(clip, n_frames * clip_writer.HELD.get(outs[0].suffix.lower(), 0))
    for line in lines + conversions(clip, images, arguments.on):
        say(line)

    total = n_drawings(clip, arguments)
    with progress.bar(what="drawing", unit="frame", total=total) as bar:
        write_clips(clip, outs, arguments, decoding, bar.update)
    height, width = shown[0].shape[:2]
    for out in outs:
        print(f"{out}: {n_frames} frames of {height}x{width}")


def say(line: str) -> None:
    print(line, file=sys.stderr)


def checked(
    arguments: argparse.Namespace, settings: config.Params
) -> tuple[Decoding, dict[int, Path]]:
    """How tokens are sampled, and the given pictures by frame; UserError names a wrong option."""
    options = {name: getattr(arguments, name) for name in Decoding.model_fields}
    options = {name: value for name, value in options.items() if value is not None}
    decoding = settings.evaluate.decoding.model_copy(update=options)
    _check_numbers(arguments, decoding)
    return decoding, keyframes.given_frames(
        arguments.first, arguments.last, arguments.frame, arguments.n_frames
    )


def clip_to_draw(
    model: InBetweener,
    images: dict[int, np.ndarray],
    arguments: argparse.Namespace,
    decoding: Decoding,
) -> Clip:
    """UserError where this model has no use for an option."""
    size = output_size(arguments.size, images[0].shape[:2], model.ingest)
    if arguments.steps and resolve_mode(decoding.mode, model.gpt.config) == "parallel":
        raise UserError(
            f"--steps {arguments.steps}: mode parallel has no steps; leave the option out, or take "
            "--mode maskgit, where the model was trained for it"
        )
    parts = keyframes.segments(images, arguments.on)
    return Clip(timed(model, arguments.ease), images, parts, size)


def n_drawings(clip: Clip, arguments: argparse.Namespace) -> int:
    """How many `write_clips` draws."""
    total = keyframes.frames_to_draw(clip.segments) * arguments.samples
    if arguments.best_of and clip.segments[-1].drawn:
        total += arguments.best_of
    return total


def write_clips(
    clip: Clip,
    outs: list[Path],
    arguments: argparse.Namespace,
    decoding: Decoding,
    advance: Callable[[int], object],
) -> None:
    """Draws and writes a sample for each of `outs`, or the best of several.

    advance: told how many were drawn.
    """

    def write(ids: TokenIds, out: Path) -> None:
        n_frames = clip.segments[-1].last + 1
        clip_writer.write_clip(clip.frames(ids, advance), n_frames, out, arguments.fps)

    best, least_jump = None, np.inf
    for k in range(arguments.best_of or len(outs)):
        generator = torch.Generator().manual_seed(arguments.seed + k)
        ids = clip.token_ids(decoding, generator)
        if not arguments.best_of:
            write(ids, outs[k])
            continue
        jump = clip.jump(ids, advance)
        if best is None or jump < least_jump:
            best, least_jump = ids, jump
    if best is not None:
        write(best, outs[0])


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m pipeline generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.register("action", None, _Once)
    add = options.add_argument_group("given frames").add_argument
    first = "image of frame 0; the others get its size, their edges cropped to its aspect"
    add("--first", type=Path, help=first)
    add("--last", type=Path, help="image of the last frame")
    known = "image of any other frame, such as 9=mid.png, counted from 0; may be repeated"
    add("--frame", action="append", default=[], metavar="INDEX=IMAGE", help=known)
    length = f"frames of the clip; default: {keyframes.N_FRAMES}, or the largest --frame plus 1"
    add("--n-frames", type=int, help=length)
    add("--on", type=int, default=1, help="frames that each drawing is held; 2: on twos")
    add = options.add_argument_group("output").add_argument
    out = "clip.mp4, .gif, .webp, or a folder of PNG files; replaces an earlier clip, no other file"
    add("--out", type=Path, required=True, help=out)
    add("--size", default="input", help="input (default), model, or HxW with the height first")
    add("--fps", type=float, default=24.0, help="frames a second of mp4, gif and webp")
    colour = "put under transparent parts; default: none for webp and PNG files, white for others"
    add("--background", metavar="COLOUR", help=colour)
    add("--samples", type=int, default=1, help="number of clips: clip_1.mp4, clip_2.mp4, ...")
    best = "sample so many clips and keep the one that meets the last frame best"
    add("--best-of", type=int, metavar="SAMPLES", help=best)
    title = "sampling (defaults: evaluate.decoding in params.yaml)"
    add = options.add_argument_group(title).add_argument
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
    return options


class _Once(argparse.Action):
    """Stores an option's value; argparse itself lets the last one win."""

    def __call__(self, parser, namespace, value, option=None) -> None:
        if self.dest in namespace.__dict__.setdefault("given", set()):
            raise UserError(f"{self.option_strings[0]} {value} is given twice; leave one out")
        namespace.given.add(self.dest)
        setattr(namespace, self.dest, value)


def _check_numbers(arguments: argparse.Namespace, decoding: Decoding) -> None:
    """UserError for a number out of range, or one without effect; NaN is never in range."""
    sampled, samples, best_of = decoding.temperature > 0, arguments.samples, arguments.best_of
    hot = "a temperature above 0, where tokens are sampled; add --temperature 1"
    alike = "1 at temperature 0, where all samples are alike; add --temperature 1"
    greedy = "temperature 0, where tokens are greedy; leave one of both out"
    timing = (f"from 1, even timing, to {MAX_EXPONENT:g}, held until the middle",)
    for option, value, low, high, *words in (
        ("n-frames", arguments.n_frames, 3, keyframes.MAX_FRAMES),
        ("on", arguments.on, 1, keyframes.MAX_FRAMES),
        ("fps", arguments.fps, 0.1, 240),
        ("steps", decoding.steps, 1, 1000),
        ("temperature", decoding.temperature or 0.01, 0.01, 100, "0, or 0.01 to 100"),
        ("top-k", decoding.top_k, 0, 2**31, "0 or more; 0 takes all tokens"),
        ("top-p", decoding.top_p, 0.001, 1),
        ("min-confidence", decoding.min_confidence, 0, 1),
        ("seed", arguments.seed, -(2**62), 2**62),
        ("samples", samples, 1, 10_000),
        ("best-of", best_of, 2, 10_000),
        ("ease", arguments.ease, 1, MAX_EXPONENT, *timing),
    ):
        if value is not None and not low <= value <= high:
            expected = words[0] if words else f"{low} to {high}"
            raise UserError(f"--{option} {short(value)}: expected {expected}")
    for option, value, idle, expected in (
        ("samples", samples, samples > 1 and not sampled, alike),
        ("best-of", best_of, best_of and not sampled, hot),
        ("best-of", best_of, best_of and samples > 1, "no --samples"),
        ("top-k", arguments.top_k, arguments.top_k and not sampled, hot),
        ("top-p", arguments.top_p, arguments.top_p not in (None, 1) and not sampled, hot),
        ("min-confidence", arguments.min_confidence, arguments.min_confidence and sampled, greedy),
    ):
        if idle:
            raise UserError(f"--{option} {short(value)}: expected {expected}")


def short(value: object) -> str:
    """A number as it was given; the middle of a long one is left out."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) < 30 else f"{text[:10]}...{text[-5:]}"


def load_models(device: torch.device, precision: str) -> InBetweener:
    missing = [str(path) for path in (VQGAN, GPT2) if not (path / "model.safetensors").is_file()]
    if missing:
        raise UserError(f"no trained model in {' and '.join(missing)}; run `dvc repro` first")
    return InBetweener.load(VQGAN, GPT2, device, precision)
