"""`python -m pipeline generate`: a few pictures in, the clip through them out.

Needs the models that `dvc repro` leaves in models/. The given pictures are frames of the clip, its
first and its last among them; what lies between is drawn at the model's size and brought to the
output's.
"""

import argparse
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from pipeline import config, frames, progress, runtime
from pipeline.errors import UserError
from pipeline.inference import keyframes
from pipeline.inference.inbetweener import InBetweener
from pipeline.inference.keyframes import Segment
from pipeline.models.flow import MAX_EXPONENT, Easing, consistent_share
from pipeline.models.gpt.sampling import Decoding
from pipeline.video.writer import write_video

MODELS = ("models/vqgan", "models/gpt2")
# Keyframes that differ by more grey levels, with a less consistent flow, are taken for a cut.
CUT_CHANGE, CUT_CONSISTENT = 12.0, 0.12
FRAME_NAME = re.compile(r"frame_\d{4,}\.png")
# Half the colour resolution, as video has it, would keep flat drawings to 28-40 dB at any crf.
EXACT = {"crf": 8, "pix_fmt": "yuv444p"}  # at least 42 dB, on noise


def main(arguments: list[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    settings = config.load()
    paths = keyframes.given_frames(given.first, given.last, given.frame, given.n_frames)
    decoding = _decoding(given, settings.evaluate.decoding)
    _check_numbers(given, decoding)
    outs = _numbered(given.out, given.samples)
    for out in outs:
        _check_out(out)
    pictures = {frame: read_picture(path) for frame, path in paths.items()}
    size = output_size(given.size, pictures[0].shape[:2], settings.ingest)
    model = load_models(runtime.prepare(settings.base), settings.base.precision)
    if given.ease:
        model.easing = _easing(given.ease, model)
    segments = keyframes.segments(pictures, given.on)
    for line in _warnings(model, pictures, segments):
        print(line, file=sys.stderr)
    samples = given.best_of or given.samples
    with progress.bar(
        what="drawing", unit="frame", total=keyframes.frames_to_draw(segments) * samples
    ) as bar:
        clips = _samples(model, pictures, segments, size, decoding, given.seed, samples, bar.update)
        if given.best_of:
            clips = [min(clips, key=keyframes.last_step)]
        for out, clip in zip(outs, clips, strict=False):
            write_clip(clip, out, given.fps)
    height, width = clip.shape[1:3]
    for out in outs:
        print(f"{out}: {len(clip)} frames of {height}x{width}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline generate", description=__doc__)
    add = parser.add_argument_group("given frames").add_argument
    add("--first", type=Path, help="frame 0, any picture file")
    add("--last", type=Path, help="last frame")
    more = {"action": "append", "default": [], "metavar": "INDEX=PICTURE"}
    add("--frame", **more, help="a known frame, the first is 0: 9=mid.png; as often as you like")
    length = f"all frames; default: {keyframes.N_FRAMES}, with --frame its largest index + 1"
    add("--n-frames", type=int, help=length)
    add("--on", type=int, default=1, help="frames that each drawing is held: on ones, twos, ...")
    add = parser.add_argument_group("output").add_argument
    add("--out", type=Path, required=True, help="clip.mp4, clip.gif, or a folder for PNG files")
    add("--size", default="input", help="input (default) | model | HxW, height first")
    add("--fps", type=float, default=24.0, help="frames a second of mp4 and gif")
    add("--samples", type=int, default=1, help="clips: clip_1.mp4, clip_2.mp4, ...")
    best = "sample so many clips and keep the one that meets the last frame best"
    add("--best-of", type=int, metavar="SAMPLES", help=best)
    add = parser.add_argument_group(
        "drawing (defaults: evaluate.decoding in params.yaml)"
    ).add_argument
    add("--mode", choices=("parallel", "maskgit"), help="how a frame is drawn")
    add("--steps", type=int, help="of the mode maskgit, a frame")
    add("--temperature", type=float, help="0: greedy; about 1: sampled, varied clips")
    add("--top-k", type=int, help="at a temperature: only the likeliest k codes; 0: all")
    add("--top-p", type=float, help="only the fewest codes that make up this share; 1: all")
    least = "greedy: less likely tokens are not told to the decoder; 0: all are"
    add("--min-confidence", type=float, help=least)
    add(
        "--ease", type=float, help="pace: 1: even, up to 16: held until the middle; default: learnt"
    )
    add("--seed", type=int, default=0, help="of the random choice; sample k has seed + k - 1")
    return parser


def _decoding(given: argparse.Namespace, settings: config.Decoding) -> Decoding:
    """The options, where they are given, over params.yaml."""
    options = ((name, getattr(given, name)) for name in config.Decoding.model_fields)
    return Decoding.from_params(settings, **{name: x for name, x in options if x is not None})


def _check_numbers(given: argparse.Namespace, decoding: Decoding) -> None:
    """Options that are numbers; NaN is never fine."""
    alone = "1 at temperature 0, where all samples are alike; add --temperature 1"
    by_chance = "a temperature above 0, where codes are drawn by chance; add --temperature 1"
    paced = f"from 1, an even pace, to {MAX_EXPONENT:g}, held until the middle"
    stepped = "the mode maskgit, which alone has steps; add --mode maskgit"
    for option, value, fine, expected in (
        ("on", given.on, given.on >= 1, "1 or more"),
        ("fps", given.fps, 0 < given.fps <= 240, "more than 0 and at most 240"),
        ("steps", decoding.steps, decoding.steps >= 1, "1 or more"),
        ("temperature", decoding.temperature, 0 <= decoding.temperature < np.inf, "0 or more"),
        ("top-k", decoding.top_k, decoding.top_k >= 0, "0 or more; 0 takes all codes"),
        ("top-p", decoding.top_p, 0 < decoding.top_p <= 1, "more than 0 and at most 1"),
        ("min-confidence", decoding.min_confidence, 0 <= decoding.min_confidence <= 1, "0 to 1"),
        ("seed", given.seed, abs(given.seed) < 2**62, "less than 2^62"),
        ("samples", given.samples, given.samples >= 1, "1 or more"),
        ("ease", given.ease, given.ease is None or 1 <= given.ease <= MAX_EXPONENT, paced),
        ("samples", given.samples, given.samples == 1 or decoding.temperature, alone),
        ("best-of", given.best_of, given.best_of is None or given.best_of >= 2, "2 or more"),
        ("best-of", given.best_of, given.best_of is None or decoding.temperature, by_chance),
        ("best-of", given.best_of, given.best_of is None or given.samples == 1, "no --samples"),
        ("top-k", given.top_k, not given.top_k or decoding.temperature, by_chance),
        ("top-p", given.top_p, given.top_p in (None, 1) or decoding.temperature, by_chance),
        (
            "steps",
            given.steps,
            given.steps is None or decoding.mode in ("auto", "maskgit"),
            stepped,
        ),
    ):
        if not fine:
            raise UserError(f"--{option} {value:g}: expected {expected}")


def _easing(exponent: float, model: InBetweener) -> Easing:
    if not model.has_context:
        raise UserError(
            f"--ease {exponent:g}: this model warps no keyframes, so they have no timing; train it "
            "with vqgan.context = keyframes, or leave the option out"
        )
    return Easing.fixed(exponent)


def _numbered(out: Path, samples: int) -> list[Path]:
    """`out` itself, or clip_1.mp4, clip_2.mp4, ... of several."""
    if samples == 1:
        return [out]
    return [out.parent / f"{out.stem}_{k}{out.suffix}" for k in range(1, samples + 1)]


def _check_out(out: Path) -> None:
    if out.suffix.lower() not in (".mp4", ".gif", ""):
        raise UserError(
            f"--out {out}: expected a name ending in .mp4 or .gif, or a folder for PNG files"
        )
    if out.is_dir() and out.suffix:
        raise UserError(f"--out {out} is a folder; expected the name of a file")
    if not out.suffix:
        if out.is_file():
            raise UserError(f"--out {out} is a file; expected a new or empty folder")
        foreign = [p.name for p in out.glob("*") if not FRAME_NAME.fullmatch(p.name)]
        if foreign:
            raise UserError(
                f"--out {out} holds {foreign[0]}; expected a new folder, an empty one, or "
                "one with frames of an earlier clip"
            )


def load_models(device: torch.device, precision: str) -> InBetweener:
    missing = [name for name in MODELS if not (Path(name) / "model.safetensors").is_file()]
    if missing:
        raise UserError(f"{' and '.join(missing)} hold no trained model; run `dvc repro` first")
    return InBetweener.load(Path(MODELS[0]), Path(MODELS[1]), device, precision)


def read_picture(path: Path) -> np.ndarray:
    """uint8 `H W 3`; transparency on white, the camera's rotation applied."""
    if not path.is_file():
        fault = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {fault}; expected a picture (PNG, JPEG, WebP, ...)")
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path} cannot be read as a picture ({error}); expected PNG, JPEG, WebP, ..."
        ) from None
    page = Image.new("RGBA", upright.size, (255, 255, 255, 255))
    return np.array(Image.alpha_composite(page, upright).convert("RGB"))  # a copy: writable


def output_size(wish: str, picture: tuple[int, int], ingest: config.FrameSize) -> tuple[int, int]:
    """Height and width of the output, even numbers (H.264 has no odd ones).

    `model`: the model's height in the first picture's aspect; `input`: the first picture's size.
    """
    exact = re.fullmatch(r"(\d+)x(\d+)", wish)
    if exact:
        size = int(exact[1]), int(exact[2])
        if not all(16 <= side <= 8192 for side in size):
            raise UserError(f"--size {wish}: expected sides from 16 to 8192")
    elif wish == "model":
        size = ingest.height, round(ingest.height * picture[1] / picture[0])
    elif wish == "input":
        size = picture
    else:
        raise UserError(f"--size {wish}: expected model, input, or HxW such as 256x512")
    return max(16, size[0] - size[0] % 2), max(16, size[1] - size[1] % 2)


def _warnings(
    model: InBetweener, pictures: dict[int, np.ndarray], segments: list[Segment]
) -> Iterator[str]:
    """A line for each pair of given frames that has nothing in common."""
    if not model.has_context:
        return
    size = (model.ingest.height, model.ingest.width, model.ingest.fit)
    for segment in segments:
        if not segment.drawn:
            continue
        ends = [frames.fit(pictures[k], *size) for k in (segment.first, segment.last)]
        first, last = (torch.from_numpy(np.ascontiguousarray(end)) for end in ends)
        change = float((first.float() - last.float()).abs().mean())
        if change > CUT_CHANGE and consistent_share(model.flow(first, last)) < CUT_CONSISTENT:
            yield (
                f"frames {segment.first} and {segment.last} have little in common, as across a "
                "cut, and are cross-faded; cut there, or give a frame between"
            )


def _samples(
    model: InBetweener,
    pictures: dict[int, np.ndarray],
    segments: list[Segment],
    size: tuple[int, int],
    decoding: Decoding,
    seed: int,
    samples: int,
    advance: Callable[[int], object],
) -> Iterator[np.ndarray]:
    """Clips uint8 `n H W 3`, the k-th with the seed `seed + k`."""
    for number in range(samples):
        generator = torch.Generator().manual_seed(seed + number)
        draw = partial(model.generate, decoding=decoding, generator=generator, advance=advance)
        yield inbetween(draw, pictures, segments, size, model.ingest)


def inbetween(
    draw: Callable[..., list[torch.Tensor]],
    pictures: dict[int, np.ndarray],
    segments: list[Segment],
    size: tuple[int, int],
    ingest: config.FrameSize,
) -> np.ndarray:
    """uint8 `n H W 3`, H W = size; the pictures are the frames of their numbers, resized.

    draw: as `InBetweener.draw`. A model trained with `fit: crop` knows the middle of the pictures
    only, and the clip shows that.
    """
    fitting = (ingest.height, ingest.width, ingest.fit)
    large = {
        frame: frames.even(frames.canvas(frames.resize(picture, *size), *fitting))
        for frame, picture in pictures.items()
    }
    small = {frame: frames.resize(picture, *fitting[:2]) for frame, picture in large.items()}
    drawn = iter(_drawn(draw, small, large, [s for s in segments if s.drawn]))
    clip = []
    for segment in segments:
        drawings = next(drawn).numpy() if segment.drawn else [large[segment.first]]
        clip += [drawings[k] for k in segment.shown]
    clip.append(large[segments[-1].last])
    if ingest.fit == "pad":
        clip = [frames.without_bars(frame, *size) for frame in clip]
    return np.stack(clip)


def _drawn(
    draw: Callable[..., list[torch.Tensor]],
    small: dict[int, np.ndarray],
    large: dict[int, np.ndarray],
    segments: list[Segment],
) -> list[torch.Tensor]:
    """Drawings uint8 `n H W 3` of each segment, all in one batch."""
    if not segments:
        return []
    ends = [[s.first for s in segments], [s.last for s in segments]]
    given, shown = (
        tuple(torch.from_numpy(np.stack([by_frame[k] for k in end])) for end in ends)  # B H W 3
        for by_frame in (small, large)
    )
    return draw(*given, [s.n_drawings for s in segments], large=shown)


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
            for number, frame in enumerate(clip):
                Image.fromarray(frame).save(partial / f"frame_{number:04d}.png")
            shutil.rmtree(out, ignore_errors=True)
        partial.replace(out)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)
