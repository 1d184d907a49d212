"""What of a run lives in git: one small JSON a stage for `dvc metrics`, curves and pictures.

`report` is the only stage whose outputs are not cached by DVC, because git keeps them.
"""

import shutil
from pathlib import Path

from pipeline.records import read_json, write_json

SUMMARIES = {
    "ingest": Path("data/frames/summary.json"),
    "scene_split": Path("data/scenes/summary.json"),
    "frame_subsample": Path("data/frame_index/summary.json"),
    "clip_chunk": Path("data/clips/summary.json"),
    "shard_pack": Path("data/shards/summary.json"),
    "vqgan_train": Path("models/vqgan/summary.json"),
    "token_precompute": Path("data/tokens/summary.json"),
    "gpt2_train": Path("models/gpt2/summary.json"),
    "evaluate": Path("evaluation/metrics.json"),
}

PLOTS = {
    "vqgan_train.csv": Path("models/vqgan/history.csv"),
    "vqgan_val.csv": Path("models/vqgan/validation.csv"),
    "gpt2_train.csv": Path("models/gpt2/history.csv"),
    "gpt2_val.csv": Path("models/gpt2/validation.csv"),
    "inbetween_strip.png": Path("evaluation/strip.png"),
    "reconstruction.png": Path("evaluation/reconstruction.png"),
}


def collect_metrics(out: Path) -> dict[str, dict]:
    """Writes `out/<stage>.json`; gives all of them under their stage's name."""
    numbers = {stage: read_json(path) for stage, path in SUMMARIES.items()}
    for stage, content in numbers.items():
        write_json(out / f"{stage}.json", content)
    return numbers


def collect_plots(out: Path) -> list[Path]:
    """Copies curves and pictures to `out`; gives their paths there."""
    out.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copyfile(source, out / name)) for name, source in PLOTS.items()]
