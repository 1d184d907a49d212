"""What of a run lives in git: one small JSON a stage for `dvc metrics`, curves and pictures.

`report` is the only stage whose outputs are not cached by DVC, because git keeps them.
"""

import shutil
from pathlib import Path

from PIL import Image

from pipeline.errors import UserError
from pipeline.io import atomic, read_csv, read_json, require_file, write_json

SUMMARIES = {
    "ingest": Path("data/frames/summary.json"),
    "scene_split": Path("data/scenes/summary.json"),
    "frame_subsample": Path("data/frame_index/summary.json"),
    "clip_chunk": Path("data/clips/summary.json"),
    "shard_pack": Path("data/shards/summary.json"),
    "vqgan_train": Path("models/vqgan/summary.json"),
    "token_precompute": Path("data/tokens/summary.json"),
    "gpt2_train": Path("models/gpt2/summary.json"),
    "evaluate": Path("evaluation/summary.json"),
}

PLOTS = {
    "vqgan_train.csv": Path("models/vqgan/history.csv"),
    "vqgan_val.csv": Path("models/vqgan/validation.csv"),
    "gpt2_train.csv": Path("models/gpt2/history.csv"),
    "gpt2_val.csv": Path("models/gpt2/validation.csv"),
    "by_frame_psnr.csv": Path("evaluation/plots/by_frame_psnr.csv"),
    "by_frame_lpips.csv": Path("evaluation/plots/by_frame_lpips.csv"),
    "by_motion_psnr.csv": Path("evaluation/plots/by_motion_psnr.csv"),
    "by_motion_lpips.csv": Path("evaluation/plots/by_motion_lpips.csv"),
    "codebook.csv": Path("evaluation/codebook.csv"),
    "inbetween_strip.png": Path("evaluation/strip.png"),
    "reconstruction.png": Path("evaluation/reconstruction.png"),
}

# Columns that dvc.yaml plots and only a tokenizer with context has. They are empty without, because
# DVC leaves out a whole plot of which one column is missing.
CONTEXT_COLUMNS = ("psnr_without_codes", "psnr_start")

PAGE = Path("evaluation/report.html")  # all of a run; too large for git, kept with its MLflow run


def collect_metrics(out: Path) -> dict[str, dict]:
    """Writes `out/<stage>.json`; gives all of them under their stage's name."""
    numbers = {stage: read_json(path) for stage, path in SUMMARIES.items()}
    for stage, content in numbers.items():
        write_json(out / f"{stage}.json", content)
    return numbers


def require_plots() -> None:
    """UserError where a curve or picture is missing or damaged, before anything is written."""
    for path in PLOTS.values():
        if path.suffix == ".csv":
            read_csv(path)
            continue
        require_file(path)
        try:
            with Image.open(path) as image:
                image.load()
        except OSError as error:
            raise UserError(
                f"{path} is no readable picture ({error}); `dvc repro` makes it again"
            ) from None


def collect_plots(out: Path) -> list[Path]:
    """Copies curves and pictures to `out`, with all columns that dvc.yaml plots; their paths."""
    require_plots()
    out.mkdir(parents=True, exist_ok=True)
    paths = [Path(shutil.copyfile(source, out / name)) for name, source in PLOTS.items()]
    validation = out / "vqgan_val.csv"
    header, *rows = validation.read_text().splitlines()
    missing = [name for name in CONTEXT_COLUMNS if name not in header.split(",")]
    if missing:
        lines = [",".join([header, *missing]), *(row + "," * len(missing) for row in rows)]
        with atomic(validation) as partial:
            partial.write_text("\n".join(lines) + "\n")
    return paths
