"""`python -m pipeline.generate`: two pictures in, the clip between them out.

Needs the models that `dvc repro` leaves in models/. The given pictures are the first and the last
frame of the clip; what lies between is drawn at the model's size and brought to the output's.
"""

import argparse
import os
import re
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from pipeline import frames, params, progress, torch_setup
from pipeline.errors import UserError, run_main
from pipeline.gpt2.sampling import at_temperature
from pipeline.inbetween.drawing import InBetweener, Style
from pipeline.sources.encode import write_video

MODELS = ("models/vqgan", "models/gpt2")
FRAME_NAME = re.compile(r"frame_\d{4,}\.png")


def main(arguments: list[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    settings = params.load()
    _check(given)
    pictures = [read_picture(given.first), read_picture(given.last)]
    size = output_size(given.size, pictures[0].shape[:2], settings.ingest)
    device = torch_setup.prepare(settings.base)
    model = load_models(device, settings.base.precision)
    pick = at_temperature(given.temperature, torch.Generator().manual_seed(given.seed))
    looks = settings.evaluate
    # A mean over all codes would show no trace of the ones that were drawn by chance.
    decode = "argmax" if given.temperature > 0 else looks.decode
    style = Style(decode, looks.sharpness, looks.detail)
    clip = inbetween(model, pictures, given.n_frames, size, style, pick)
    write_clip(clip, given.out, given.fps)
    height, width = clip.shape[1:3]
    print(f"{given.out}: {len(clip)} frames of {height}x{width}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.generate", description=__doc__)
    add = parser.add_argument
    add("--first", type=Path, required=True, help="first frame, any picture file")
    add("--last", type=Path, required=True, help="last frame")
    add("--n-frames", type=int, default=20, help="length of the clip, both given frames included")
    add("--out", type=Path, required=True, help="clip.mp4, clip.gif, or a folder for PNG files")
    add("--size", default="input", help="input (default) | model | HxW, height first")
    add("--fps", type=float, default=24.0, help="frames a second of mp4 and gif")
    add("--temperature", type=float, default=0.0, help="0: likeliest codes; about 1: varied clips")
    add("--seed", type=int, default=0, help="of the random choice at a temperature above 0")
    return parser


def _check(given: argparse.Namespace) -> None:
    """What can be said before the networks are loaded."""
    if given.n_frames < 3:
        raise UserError(
            f"--n-frames {given.n_frames}: expected at least 3, both given frames and one between"
        )
    if not given.temperature >= 0:
        raise UserError(f"--temperature {given.temperature:g}: expected 0 or more")
    if not 0 < given.fps <= 240:
        raise UserError(f"--fps {given.fps:g}: expected more than 0 and at most 240")
    if given.out.suffix.lower() not in (".mp4", ".gif", ""):
        raise UserError(
            f"--out {given.out}: expected a name ending in .mp4 or .gif, or a folder for PNG files"
        )
    if given.out.is_dir() and given.out.suffix:
        raise UserError(f"--out {given.out} is a folder; expected the name of a file")
    if not given.out.suffix:
        if given.out.is_file():
            raise UserError(f"--out {given.out} is a file; expected a new or empty folder")
        foreign = [p.name for p in given.out.glob("*") if not FRAME_NAME.fullmatch(p.name)]
        if foreign:
            raise UserError(
                f"--out {given.out} holds {foreign[0]}; expected a new folder, an empty one, or "
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


def output_size(wish: str, picture: tuple[int, int], ingest: params.FrameSize) -> tuple[int, int]:
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


def inbetween(
    model: InBetweener,
    pictures: list[np.ndarray],
    n_frames: int,
    size: tuple[int, int],
    style: Style,
    pick,
) -> np.ndarray:
    """uint8 `n H W 3`, H W = size; frames 0 and n-1 are the pictures, resized.

    A model trained with `fit: crop` knows the middle of the pictures only, and the clip shows that.
    """
    fitting = (model.ingest.height, model.ingest.width, model.ingest.fit)
    ends = [frames.resize(picture, *size) for picture in pictures]
    seen = [frames.even(frames.canvas(end, *fitting)) for end in ends]
    small = [torch.from_numpy(frames.resize(s, *fitting[:2]))[None] for s in seen]
    large = tuple(torch.from_numpy(s)[None] for s in seen)
    with progress.bar(what="drawing", unit="frame", total=n_frames - 2) as bar:
        (clip,) = model.draw(
            *small, [n_frames], style, lambda logits: bar.update() or pick(logits), large
        )
    clip = clip.numpy()
    if model.ingest.fit == "pad":
        clip = np.stack([frames.without_bars(frame, *size) for frame in clip])
    elif model.ingest.fit == "squeeze":
        clip[0], clip[-1] = ends
    return clip


def write_clip(clip: np.ndarray, out: Path, fps: float) -> None:
    """mp4, gif or a folder of frame_0000.png, ...; complete or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix.lower() == ".mp4":
        write_video(out, iter(clip), Fraction(fps).limit_denominator(1001))
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


if __name__ == "__main__":
    run_main(main)
