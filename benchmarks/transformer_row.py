"""Trains one transformer and draws the test clips in every mode it knows, in a process of its own.

    python -m benchmarks.transformer_row SETTINGS.json PROJECT OUT

PROJECT is a folder where the pipeline ran: its tokens, shards, clips and tokenizer are read. Writes
OUT/row.json, OUT/<drawing>/groups.csv and by_frame.csv as `evaluate` does, and OUT/shown.npz, some
clips of each drawing, uint8 `n H W 3`; a row that is there is not made again.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
from pipeline.easing import load_easing
from pipeline.inbetween.drawing import InBetweener
from pipeline.inbetween.tokens import precompute

from benchmarks.tokenizer_row import peak
from pipeline import params, torch_setup
from pipeline.errors import run_main
from pipeline.evaluation.candidates import Candidates
from pipeline.evaluation.run import evaluate
from pipeline.models.checkpoints import load_tokenizer
from pipeline.records import write_json
from pipeline.shards.loaders import ClipSet
from pipeline.training.checkpoint import Resume
from pipeline.training.gpt import GptTask
from pipeline.training.loop import Plan, train

DRAWINGS = {  # name -> mode, steps
    "seed": ("seed", 1),
    "maskgit 1": ("maskgit", 1),
    "maskgit 4": ("maskgit", 4),
    "maskgit 8": ("maskgit", 8),
    "autoregressive": ("autoregressive", 1),
}
SHOWN = 2  # clips of the strips


def trained(settings: params.Params, project: Path, out: Path) -> tuple[InBetweener, dict]:
    """A transformer on the project's tokens, with its tokenizer; how long that took."""
    device, name = torch_setup.prepare(settings.base), f"bench-{out.name}"
    tokenizer, size = load_tokenizer(project / "models/vqgan", device)
    encoding, precision = settings.token_precompute, settings.base.precision
    tokens = project / "data/tokens"
    if encoding.easing != params.read_yaml(project / "params.yaml")["token_precompute"]["easing"]:
        tokens = out / "tokens"  # at another pace than the project's
        precompute(tokenizer, project / "data/shards", tokens, encoding, device, precision)
    easing = load_easing(tokens)
    task = GptTask(settings, tokens, tokenizer, device)
    rules = settings.train
    plan = Plan(
        batch_size=rules.batch_size,
        n_epochs=rules.n_epochs,
        seed=settings.base.seed,
        accumulation_size=rules.accumulation_size,
    )
    sections = {"base": settings.base, "transformer": settings.transformer, "train": rules}
    inputs = [tokens / "train.parquet", project / "models/vqgan/model.safetensors"]
    started = time.perf_counter()
    history = train(task, plan, name, Resume(name, sections, inputs), lambda values, step: None)
    found = {
        "seconds": time.perf_counter() - started,
        "peak_mb": peak(),
        "millions": sum(p.numel() for p in task.module.parameters()) / 1e6,
        "steps": history.steps[-1]["step"],
    } | {f"val_{name}": value for name, value in history.epochs[-1].items() if name != "step"}
    module = task.module.eval().requires_grad_(False)
    return InBetweener(tokenizer, module, size, device, precision, easing), found


def measured(
    model: InBetweener, settings: params.Params, project: Path, out: Path
) -> dict[str, float]:
    """Writes the tables of one drawing; gives the seconds it takes for a clip, alone."""
    clips = pd.read_parquet(project / "data/clips/clips.parquet")
    evaluate(model, project / "data/shards", clips, settings, out)
    test = ClipSet(project / "data/shards", "test")
    candidates = Candidates(model, settings.evaluate, settings.base.seed)
    spent = []
    for number in range(min(4, len(test))):
        started = time.perf_counter()
        candidates.rollout([test[number]], candidates.style, candidates.decoding)
        spent.append(time.perf_counter() - started)
    return {"seconds_a_clip": float(np.median(spent))}


def shown(model: InBetweener, settings: params.Params, project: Path, table: Path) -> dict:
    """Some clips with much motion as this drawing shows them, and the truth and its baselines."""
    clips = pd.read_csv(table)
    high = clips[(clips.group == "high") & (clips.candidate == "model")].clip_id.tolist()
    test = ClipSet(project / "data/shards", "test")
    wanted = high[len(high) // 4 :: max(1, len(high) // SHOWN)][:SHOWN]
    rows = [row for row in range(len(test)) if test.clip_id(row) in wanted]
    drawn = Candidates(model, settings.evaluate, settings.base.seed).draw(
        [test[row] for row in rows], samples=0
    )
    return {one.clip.clip_id: {"truth": one.clip.frames} | one.candidates for one in drawn}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transformer_row")
    parser.add_argument("settings", type=Path)
    parser.add_argument("project", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    content = json.loads(given.settings.read_text())
    settings = params.Params.model_validate(content)
    model, found = trained(settings, given.project, given.out)
    found["drawings"], pictures = {}, {}
    for name, (mode, steps) in DRAWINGS.items():
        if mode not in model.gpt.config.modes:
            continue
        content["evaluate"]["decoding"] |= {"mode": mode, "steps": steps}
        its = params.Params.model_validate(content)
        folder = given.out / name.replace(" ", "-")
        found["drawings"][name] = measured(model, its, given.project, folder)
        pictures |= {
            f"{clip_id}|{name if key == 'model' else key}": clip.numpy()
            for clip_id, clips in shown(model, its, given.project, folder / "clips.csv").items()
            for key, clip in clips.items()
        }
        content["evaluate"]["baselines"] = ["cross_fade"]  # all of them once is enough
    np.savez_compressed(given.out / "shown.npz", **pictures)
    write_json(given.out / "row.json", found)


if __name__ == "__main__":
    run_main(main)
