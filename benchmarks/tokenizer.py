"""Compares tokenizers on a folder of videos: one trained from scratch for each variant.

    python -m benchmarks.tokenizer --videos FOLDER --experiment tokenizer --steps 600

The variants are those of a named experiment (presets/experiments), over params.yaml and the small
form below, so that two cores are enough: the same number of steps, of pictures and of codes for
every row. The videos are split by video, or with --split-by scene, where there are few, by scene;
measured are the test pictures, LPIPS with VGG16. When all are trained, each is timed alone for a
few steps, in a process of its own, which gives its memory. OUT gets a table (OUT/NAME.md) and the
reconstructions below each other (OUT/NAME.png). Rows of as many steps that are in --work already
are not trained again.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.footage_shards import shards
from benchmarks.lines import line, show
from pipeline import experiments, params, presets
from pipeline.errors import run_main
from pipeline.pictures import enlarge
from pipeline.records import read_json, write_json
from pipeline.shards.loaders import ImageSet

SMALL = {
    "tracking": {"enabled": False},
    "clip_chunk": {"train_share": 0.75, "val_share": 0.1},
    "frame_subsample": {"image_step": 2},
}
COLUMNS = {  # title, key, format
    "PSNR dB": ("psnr", "{:.2f}"),
    "SSIM": ("ssim", "{:.3f}"),
    "LPIPS": ("lpips", "{:.4f}"),
    "codes used": ("usage", "{:.1%}"),
    "perplexity": ("perplexity", "{:.0f}"),
    "parameters, millions": ("millions", "{:.2f}"),
    "images/s": ("images_a_second", "{:.1f}"),
    "MB": ("peak_mb", "{:.0f}"),
}
UNITS = {"psnr": "dB", "millions": "million", "images_a_second": "images/s", "peak_mb": "MB"}
CELL, LABEL = 72, 110  # height of a picture, width of the names beside them


def settings_of(overlay: dict, threads: int, split_by: str) -> params.Params:
    content = presets.merged(params.read_yaml(), SMALL)
    content = presets.merged(content, {"clip_chunk": {"split_by": split_by}})
    content = presets.merged(content, overlay)
    return params.parse(presets.merged(content, {"base": {"threads": threads}}))


def train_row(settings: params.Params, shards: Path, out: Path, steps: int) -> dict:
    if not (out / "row.json").is_file():
        run_row(settings, shards, out, "--steps", str(steps))
    return read_json(out / "row.json")


def time_row(settings: params.Params, shards: Path, out: Path, steps: int) -> dict:
    run_row(settings, shards, out, "--steps", str(steps), "--speed")
    return read_json(out / "speed.json")


def run_row(settings: params.Params, shards: Path, out: Path, *flags: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "settings.json", settings.model_dump())
    paths = [str(out / "settings.json"), str(shards), str(out)]
    command = [sys.executable, "-m", "benchmarks.tokenizer_row", *paths, *flags]
    subprocess.run(command, check=True, env=os.environ | {"DVC_ROOT": str(out.parent)})


def table(rows: dict[str, dict]) -> str:
    lines = ["| tokenizer | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for name, row in rows.items():
        cells = [how.format(row[key]) for key, how in COLUMNS.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figure(rows: dict[str, np.ndarray], path: Path) -> None:
    """A row of pictures each, with its name; uint8 `B H W 3` in."""
    strips = {
        name: np.concatenate([enlarge(image, CELL) for image in images], 1)
        for name, images in rows.items()
    }
    width = max(strip.shape[1] for strip in strips.values())
    page = Image.new("RGB", (LABEL + width, (CELL + 2) * len(strips)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for number, (name, strip) in enumerate(strips.items()):
        top = number * (CELL + 2)
        draw.text((4, top + CELL // 2 - 8), name, "black", font)
        page.paste(Image.fromarray(strip), (LABEL, top))
    path.parent.mkdir(parents=True, exist_ok=True)
    page.quantize(192, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tokenizer", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--experiment", default="tokenizer", help="one of presets/experiments")
    parser.add_argument("--only", nargs="*", help="these variants")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--split-by", choices=["video", "scene"], default="video")
    parser.add_argument("--work", type=Path, help="kept between calls; else a temporary folder")
    parser.add_argument("--out", type=Path, default=Path("docs/results/tokenizer"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        compare(given, (given.work or Path(temporary)).absolute())


def compare(given: argparse.Namespace, work: Path) -> None:
    experiment = experiments.load(given.experiment)
    variants = {
        name: settings_of(overlay, given.threads, given.split_by)
        for name, overlay in experiment.variants.items()
        if not given.only or name in given.only
    }
    kept = work / f"{experiment.name}-{given.steps}"  # rows of as many steps
    folder = shards(given.videos, work, next(iter(variants.values())))
    rows = {
        name: train_row(settings, folder, kept / name, given.steps)
        for name, settings in variants.items()
    }
    for name, settings in variants.items():
        rows[name] |= time_row(settings, folder, kept / name, given.steps)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"{experiment.name}.md").write_text(table(rows) + "\n")
    write_json(given.out / f"{experiment.name}.json", rows)
    pictures = {name: np.load(kept / name / "pictures.npy") for name in rows}
    images = ImageSet(folder, "test")
    shown = len(next(iter(pictures.values())))
    truth = images.batch(range(0, len(images), max(1, len(images) // shown)))[:shown]
    figure({"truth": truth.numpy()} | pictures, given.out / f"{experiment.name}.png")
    told = [
        line(f"tokenizer/{name}/{key}", row[key], UNITS.get(key, ""))
        for name, row in rows.items()
        for key, _ in COLUMNS.values()
    ]
    show(told, f"{experiment.name}: {experiment.description}")


if __name__ == "__main__":
    run_main(main)
