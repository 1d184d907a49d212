"""The studies of the thesis in a small form: queued with DVC, then drawn and counted.

    python -m benchmarks.studies queue 24 30 31 --seeds 1 2 3
    dvc queue start -j 2                     # each run has one thread; a killed run continues
    python -m benchmarks.studies show 24 30 31 --out docs/results/thesis_figures
    python -m benchmarks.studies pretrain data/text_gpt          # before figure 26
    python -m benchmarks.studies untrained --out docs/results/thesis_figures     # figure 46

A study compares variants: sets of parameters over a preset, on the embedded sample (half its
length) or on Moving MNIST. Each variant and seed is an experiment of DVC, `study-NAME-sSEED`;
studies share variants, and DVC's run-cache what variants have in common. `show` reads the
experiments out of git: it draws curves (mean of the seeds, from their lowest to their highest) or
pictures, and prints a table.
"""

import argparse
import io
import json
import re
import subprocess
import sysconfig
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pandas as pd
import torch
from PIL import Image, ImageDraw, ImageFont

from pipeline import config, frames, progress, runtime
from pipeline.commands import presets
from pipeline.errors import UserError, run_main
from pipeline.evaluation.report import figures
from pipeline.io import flatten, write_png
from pipeline.models.vqgan.model import Tokenizer

SAMPLE = {
    "sample_episodes.seconds": 24.0,
    "base.threads": 1,
    "train.n_epochs": 2,
    "train.batch_size": 2,
    "train.stop_ground_truth_after_epoch": 2,
    "evaluate.baselines": "[cross_fade,round_trip]",
    "evaluate.fid_network": "none",
    "evaluate.video_metrics": "[]",
    "evaluate.n_samples": 0,
    "evaluate.thesis_metrics": "none",
}
# where only the tokenizer is looked at
TOKENIZER = {"train.n_epochs": 1, "train.batch_size": 8, "transformer.n_layer": 1}
THREE_LEVELS = {"vqgan.autoencoder.patch_size": 1} | {
    "vqgan.autoencoder.channels_multiplier": "[1,1,2,2]"
}
DIGITS = {"source.path": "{mnist}", "sample_episodes.seconds": 48.0} | TOKENIZER
ADVERSARIAL = {"vqgan.loss.discriminator.factor": 1.0}


def layers(number: int, upsampling: str = "nearest") -> dict:
    changes = {"vqgan.discriminator.num_layers": number, "vqgan.autoencoder.upsampling": upsampling}
    return ADVERSARIAL | TOKENIZER | changes


def perceptual(loss: str, weight: float) -> dict:
    changes = {"vqgan.loss.perceptual_loss": loss, "vqgan.loss.perceptual_weight": weight}
    return TOKENIZER | changes


def previous_frames(number: int) -> dict:
    """Four tokens share a position: 8 frames of 128 positions take half an hour on a core."""
    return {"train.n_frames_before": number, "transformer.merge": 2}


VARIANTS: dict[str, dict] = {
    "windowed": {},
    "plain": {"transformer.transformer_type": "plain"},
    "remaining-none": {"transformer.remaining_frames_method": "none"},
    "remaining-concat": {"transformer.remaining_frames_method": "concat"},
    "remaining-token-type": {"transformer.remaining_frames_method": "token_type_ids"},
    "before-1": previous_frames(1),
    "before-2": previous_frames(2),
    "before-5": previous_frames(5),
    "before-8": previous_frames(8),
    "pretrained": {"transformer.pretrained": "{pretrained}"},
    "digits": DIGITS,
    "digits-adversarial": DIGITS | ADVERSARIAL,
    "no-perceptual": TOKENIZER,
    "vgg16": perceptual("vgg16", 0.5),
    "style": perceptual("style", 80.0),
    "layers-2": layers(2),
    "layers-3": layers(3),
    "layers-4": layers(4),
    "bilinear": TOKENIZER | {"vqgan.autoencoder.upsampling": "bilinear"},
    "bilinear-layers-2": layers(2, "bilinear"),
    "bilinear-layers-3": layers(3, "bilinear"),
    "bilinear-layers-4": layers(4, "bilinear"),
    "transposed-3": TOKENIZER | THREE_LEVELS | {"vqgan.autoencoder.upsampling": "transposed"},
    "nearest-3": TOKENIZER | THREE_LEVELS,
}


class Study(NamedTuple):
    """Variants by the thesis' name for them; `curve`: train and val loss, else pictures."""

    variants: dict[str, str]
    curve: bool = False
    picture: str = "reconstruction.png"


STUDIES: dict[str, Study] = {
    "24": Study({"transformers' GPT-2": "windowed", "own GPT": "plain"}, curve=True),
    "26": Study({"from nothing": "windowed", "pretrained on text": "pretrained"}, curve=True),
    "30": Study(
        {
            "none": "remaining-none",
            "concatenated": "remaining-concat",
            "token type": "remaining-token-type",
            "own embedding": "windowed",
        },
        curve=True,
    ),
    "31": Study(
        {"1 frame": "before-1", "2": "before-2", "5": "before-5", "8": "before-8"}, curve=True
    ),
    "32": Study({"without": "digits", "adversarial": "digits-adversarial"}),
    "33-34": Study({"none": "no-perceptual", "VGG16": "vgg16", "style": "style"}),
    "35-36": Study(
        {"none": "no-perceptual", "2 layers": "layers-2", "3": "layers-3", "4": "layers-4"}
    ),
    "37": Study({"nearest": "no-perceptual", "bilinear": "bilinear"}),
    "38": Study({f"{n} layers": f"bilinear-layers-{n}" for n in (2, 3, 4)}),
    "42": Study({"windowed": "windowed"}, picture="inbetween_strip.png"),
    "45": Study({"transposed": "transposed-3", "nearest": "nearest-3"}),
}


def parameters(variant: str, seed: int, places: dict[str, Path]) -> list[str]:
    """The -S flags of an experiment; places: folders outside git, which queued runs do not see."""
    preset = "moving_mnist_whole_frames" if variant.startswith("digits") else "windowed"
    values = flatten(presets.overlay(preset)) | SAMPLE | VARIANTS[variant] | {"base.seed": seed}
    flags = []
    for key, value in values.items():
        if isinstance(value, str) and value.startswith("{"):
            place = places[value[1:-1]].resolve()
            if not place.is_dir():
                raise UserError(f"{place} is no folder; {variant} reads it, see --help")
            value = place
        flags += ["-S", f"{key}={value}".replace(" ", "")]
    return flags


def queue(given: argparse.Namespace) -> None:
    places = {"mnist": given.mnist, "pretrained": given.pretrained}
    known = set(experiments()) | queued()
    wanted = {name for key in given.studies for name in STUDIES[key].variants.values()}
    for seed in given.seeds:
        for variant in [name for name in VARIANTS if name in wanted]:
            if seed != given.seeds[0] and not any(
                STUDIES[key].curve and variant in STUDIES[key].variants.values()
                for key in given.studies
            ):
                continue  # pictures want no seeds
            name = f"study-{variant}-s{seed}"
            if name in known:
                continue
            command = ["dvc", "exp", "run", "--queue", "-n", name]
            subprocess.run([*command, *parameters(variant, seed, places), "report"], check=True)
    print("now: dvc queue start -j 2")


def experiments() -> dict[str, str]:
    """Commits of finished experiments by name."""
    refs = _git("for-each-ref", "--format=%(refname:lstrip=-1) %(objectname)", "refs/exps")
    lines = [line.split() for line in refs.decode().splitlines()]
    return {name: commit for name, commit in lines if name.startswith("study-")}


def queued() -> set[str]:
    """Names of experiments that wait or run."""
    command = ["dvc", "queue", "status"]
    status = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in status.splitlines()]
    return {row[1] for row in rows if row and row[-1] in ("Queued", "Running")}


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], check=True, capture_output=True).stdout


def table(commit: str, path: str) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(_git("show", f"{commit}:{path}")))


def show(given: argparse.Namespace) -> None:
    commits = experiments()
    given.out.mkdir(parents=True, exist_ok=True)
    for key in given.studies:
        study, runs = STUDIES[key], {}
        for label, variant in study.variants.items():
            names = [f"study-{variant}-s{seed}" for seed in given.seeds]
            runs[label] = [commits[name] for name in names if name in commits]
        missing = [label for label, found in runs.items() if not found]
        if missing:
            print(f"figure {key}: no finished run of {', '.join(missing)}; queue it first")
            continue
        rows = curve_rows(runs) if study.curve else picture_rows(runs)
        print(f"\nFigure {key}\n\n{pd.DataFrame(rows).T.to_markdown()}", flush=True)
        path = given.out / f"figure_{key}.png"
        draw_curves(runs, path) if study.curve else draw_pictures(runs, study.picture, path)


def curve_rows(runs: dict[str, list[str]]) -> dict[str, dict]:
    """By variant: loss at the end of training, val numbers and in-betweens, mean and spread."""
    rows = {}
    for label, commits in runs.items():
        numbers = []
        for commit in commits:
            train, val = table(commit, "plots/gpt2_train.csv"), table(commit, "plots/gpt2_val.csv")
            evaluate = json.loads(_git("show", f"{commit}:metrics/evaluate.json"))
            numbers.append(
                {
                    "train loss": train["cross_entropy"].tail(len(train) // 5).mean(),
                    "val loss": val["cross_entropy"].iloc[-1],
                    "val accuracy": val["accuracy"].iloc[-1],
                    "rolled out": val["rollout_accuracy"].iloc[-1],
                    "PSNR": evaluate["inbetween"]["psnr"],
                    "LPIPS": evaluate["inbetween"]["lpips"],
                }
            )
        values = pd.DataFrame(numbers)
        half = (values.max() - values.min()) / 2
        rows[label] = {"seeds": len(values)} | {
            name: f"{values[name].mean():.3f} ± {half[name]:.3f}" for name in values
        }
    return rows


def picture_rows(runs: dict[str, list[str]]) -> dict[str, dict]:
    rows = {}
    for label, (commit, *_) in runs.items():
        tokenizer = json.loads(_git("show", f"{commit}:metrics/evaluate.json"))["tokenizer"]
        rows[label] = {name: f"{value:.3f}" for name, value in tokenizer.items()}
    return rows


def draw_curves(runs: dict[str, list[str]], path: Path) -> None:
    """Training loss by step, smoothed, and val loss by epoch."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    panels = (("gpt2_train", "training loss, smoothed", 4), ("gpt2_val", "val loss", 1))
    for axis, (name, title, window) in zip(axes, panels, strict=True):
        for label, commits in runs.items():
            tables = [table(commit, f"plots/{name}.csv") for commit in commits]
            losses = pd.concat([t.set_index("step")["cross_entropy"] for t in tables], axis=1)
            losses = losses.rolling(window, min_periods=1).mean()
            axis.plot(losses.index, losses.mean(axis=1), label=label, marker="." * (window == 1))
            axis.fill_between(losses.index, losses.min(axis=1), losses.max(axis=1), alpha=0.2)
        axis.set(title=title, xlabel="step", ylabel="cross entropy")
    axes[0].legend()
    figure.savefig(path, dpi=80)


def draw_pictures(runs: dict[str, list[str]], picture: str, path: Path) -> None:
    """The picture of each run under its variant's name; its true frames stand in the first only."""
    page = []
    for label, (commit, *_) in runs.items():
        image = Image.open(io.BytesIO(_git("show", f"{commit}:plots/{picture}"))).convert("RGB")
        if page and picture == "reconstruction.png":
            row = figures.STRIP_HEIGHT + figures.GAP
            image = image.crop((0, figures.LABEL_HEIGHT + row, *image.size))
        title = Image.new("RGB", (image.width, figures.LABEL_HEIGHT), figures.PAPER)
        font = ImageFont.load_default(15)
        ImageDraw.Draw(title).text((4, 4), label, figures.INK, font)
        page += [title, image]
    write_png(figures.stack(page), path)


def draw_untrained(given: argparse.Namespace) -> None:
    """Figure 46: decoders that have learnt nothing, by their up-sampling, on equal features."""
    settings, pictures = config.load(), {}
    for upsampling in ("transposed", "nearest", "bilinear"):
        changes = {"architecture": "thesis", "patch_size": 1, "channels_multiplier": [1, 1, 2, 2]}
        sizes = settings.vqgan.autoencoder.model_copy(update=changes | {"upsampling": upsampling})
        vqgan = settings.vqgan.model_copy(update={"context": "none", "autoencoder": sizes})
        torch.manual_seed(1)
        tokenizer = Tokenizer(vqgan, settings.ingest.height, settings.ingest.width).eval()
        features = torch.randn(5, vqgan.vqvae.embedding_dim, *tokenizer.grid)  # B D h w
        with torch.no_grad():
            images = tokenizer.decode_features(features)  # B 3 H W
        images -= images.mean((2, 3), keepdim=True)
        pictures[upsampling] = frames.to_uint8((images / (2.5 * images.std())).clamp(-1, 1))
    given.out.mkdir(parents=True, exist_ok=True)
    image = figures.grid(pictures, [""] * 5)
    write_png(image, given.out / "figure_46.png")


def pretrain(given: argparse.Namespace) -> None:
    """A GPT-2 of our size, trained on text, in the form of a published one: the thesis' English.

    The text is the source of Python's standard library. Its tokens are its most frequent words and
    signs, as many as the tokenizer has codes, as the thesis' 50,257 codes are as many as GPT-2's.
    """
    runtime.repair_torchvision()
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    torch.set_num_threads(given.threads)
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    words = re.findall(r"\w+|\s+|.", "".join(path.read_text("utf-8") for path in files))
    sizes = config.load().transformer
    vocabulary = presets.overlay("windowed")["vqgan"]["vqvae"]["num_embeddings"]
    known = {word: k for k, (word, _) in enumerate(Counter(words).most_common(vocabulary))}
    text = torch.tensor([known[word] for word in words if word in known])
    shape = {"n_layer": sizes.n_layer, "n_head": sizes.n_head, "n_embd": sizes.n_embd}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_positions=1024, **shape))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for step in progress.bar(range(given.steps), what="pretraining", unit="step"):
        starts = torch.randint(len(text) - 256, (8,)).tolist()
        batch = torch.stack([text[start : start + 256] for start in starts])  # B S
        loss = model(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 49:
            print(f"step {step + 1}: {loss.item():.2f}", flush=True)
    model.transformer.save_pretrained(given.folder)


def _pyplot() -> ModuleType:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    adding = commands.add_parser("queue", help="queue the runs that are not done yet")
    adding.set_defaults(run=queue)
    adding.add_argument("--mnist", type=Path, default=Path("data/mnist"))
    adding.add_argument("--pretrained", type=Path, default=Path("data/text_gpt"))
    showing = commands.add_parser("show", help="draw and count finished runs")
    showing.set_defaults(run=show)
    for command in (adding, showing):
        command.add_argument("studies", nargs="*", metavar="FIGURE", help=", ".join(STUDIES))
        command.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    untrained = commands.add_parser("untrained", help="draw figure 46")
    untrained.set_defaults(run=draw_untrained)
    for command in (showing, untrained):
        command.add_argument("--out", type=Path, required=True)
    text = commands.add_parser("pretrain", help="a GPT-2 that has read text, for figure 26")
    text.set_defaults(run=pretrain)
    text.add_argument("folder", type=Path)
    text.add_argument("--steps", type=int, default=400)
    text.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    for name in getattr(given, "studies", []):
        if name not in STUDIES:
            parser.error(f"figure {name}: no such study; expected of {', '.join(STUDIES)}")
    if not getattr(given, "studies", True):
        given.studies = list(STUDIES)
    given.run(given)


if __name__ == "__main__":
    run_main(main)
