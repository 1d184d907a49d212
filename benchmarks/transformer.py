"""Compares transformers and their ways to draw with the baselines, on a folder's test clips.

    python -m benchmarks.transformer --project . --experiment transformer

PROJECT is a folder where the pipeline ran (`dvc repro`; for own footage also `dvc exp run -S
source.path=... report`): every variant of the named experiment is trained on its tokens, from its
tokenizer, and draws its test clips. Measured by thirds of motion, beside the baselines and the
tokenizer's round trip; seconds a clip are those of one clip alone. OUT gets a table (NAME.md), all
numbers (NAME.json), the drift over the frames (NAME-drift.png) and strips (NAME.png). Variants that
are in --work already are not trained again.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.lines import line, show
from pipeline import experiments, params, presets
from pipeline.errors import UserError, run_main
from pipeline.pictures import save_strips
from pipeline.records import read_json, write_json

LEAN = {  # what the tables need
    "tracking": {"enabled": False},
    "evaluate": {
        "video_metrics": [],
        "fid_network": "none",
        "samples": 0,
        "seed_ruler": {"splits": []},
        "baselines": [
            "hold_first",
            "hold_nearest",
            "cross_fade",
            "optical_flow",
            "rife",
            "round_trip",
        ],
    },
}
GROUPS = ("high", "middle", "low")
MEASURES = {"psnr": "{:.2f}", "ssim": "{:.3f}", "lpips": "{:.4f}"}
MORE = {"motion_ratio": "{:.2f}", "control_point_ratio": "{:.2f}"}  # of the third with most motion


def train_row(settings: params.Params, project: Path, out: Path) -> dict:
    kept = out / "settings.json"
    if (out / "row.json").is_file():
        if params.Params.model_validate(read_json(kept)) != settings:
            raise UserError(
                f"{out} was made with other parameters (its settings.json says which); delete it, "
                "or name another folder with --work"
            )
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_json(kept, settings.model_dump())
        paths = [str(out / "settings.json"), str(project), str(out)]
        command = [sys.executable, "-m", "benchmarks.transformer_row", *paths]
        if subprocess.run(command, env=os.environ | {"DVC_ROOT": str(out.parent)}).returncode:
            raise UserError(f"the row {out.name} could not be made; the reason stands above")
    return read_json(out / "row.json")


def called(variant: str, drawing: str, drawings: Collection[str]) -> str:
    """Of a drawing among all of its variant."""
    if len(drawings) == 1 or drawing.startswith(variant):
        return variant if len(drawings) == 1 else drawing
    return f"{variant}, {drawing}"


def measures(work: Path, rows: dict[str, dict]) -> pd.DataFrame:
    """A row a candidate and group, with its name: the variant's drawings, the baselines once."""
    parts, others = [], pd.DataFrame()
    for name, row in rows.items():
        for drawing, its in row["drawings"].items():
            table = pd.read_csv(work / name / drawing.replace(" ", "-") / "groups.csv")
            mine = table[table.candidate == "model"].assign(
                candidate=called(name, drawing, row["drawings"])
            )
            parts.append(mine.assign(seconds=its["seconds_a_clip"]))
            baselines = table[table.candidate != "model"]
            others = max(others, baselines, key=len)
    return pd.concat([others, *parts], ignore_index=True)


def markdown(table: pd.DataFrame) -> str:
    heads = [f"{m}, {g}" for g in GROUPS for m in ("PSNR", "SSIM", "LPIPS")]
    heads += ["motion / true", "control point", "s a clip"]
    lines = ["| drawn by | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for name in table.candidate.unique():
        its = table[table.candidate == name].set_index("group")
        cells = [how.format(its.loc[g, key]) for g in GROUPS for key, how in MEASURES.items()]
        cells += [how.format(its.loc["high", key]) for key, how in MORE.items()]
        seconds = its.seconds.iloc[0]
        cells.append("" if np.isnan(seconds) else f"{seconds:.2f}")
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def drift(work: Path, rows: dict[str, dict], path: Path) -> None:
    """PSNR by frame, a line a variant and drawing."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5))
    colours = itertools.cycle(plt.get_cmap("tab20").colors)
    for name, row in rows.items():
        for drawing in row["drawings"]:
            table = pd.read_csv(work / name / drawing.replace(" ", "-") / "by_frame.csv")
            its = table[table.candidate == "model"]
            label = called(name, drawing, row["drawings"]).replace("_", " ")
            axes.plot(its.frame, its.psnr, linewidth=1.2, label=label, color=next(colours))
    first = next(iter(rows))
    table = pd.read_csv(work / first / next(iter(rows[first]["drawings"])) / "by_frame.csv")
    for name, style in (("cross_fade", "--"), ("round_trip", ":")):
        its = table[table.candidate == name]
        axes.plot(its.frame, its.psnr, "k" + style, linewidth=1.2, label=name.replace("_", " "))
    axes.set(xlabel="frame", ylabel="PSNR of all test clips, dB")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=100, bbox_inches="tight", metadata={"Software": None})


def strips(work: Path, rows: dict[str, dict], path: Path) -> None:
    """Some clips: the truth, the strongest baselines, then the drawings of these rows."""
    clips: dict[str, dict[str, torch.Tensor]] = {}
    for name, row in rows.items():
        for key, frames in np.load(work / name / "shown.npz").items():
            clip_id, _, drawing = key.partition("|")
            if drawing in row["drawings"]:
                drawing = called(name, drawing, row["drawings"])
            elif drawing not in ("truth", "cross_fade", "rife"):
                continue
            clips.setdefault(clip_id, {})[drawing.replace("_", " ")] = torch.from_numpy(frames)
    save_strips(list(clips.items()), path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transformer", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--project", type=Path, default=Path())
    parser.add_argument("--experiment", default="transformer", help="one of presets/experiments")
    parser.add_argument("--only", nargs="*", help="these variants")
    parser.add_argument("--strips", nargs="*", help="variants to be seen in them; default: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="kept between calls; else a temporary folder")
    parser.add_argument("--out", type=Path, default=Path("docs/results/transformer"))
    parser.add_argument("--name", help="of the files; default: the experiment's")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        compare(given, (given.work or Path(temporary)).absolute())


def _check(option: str, names: list[str] | None, known: Iterable[str]) -> None:
    unknown = [name for name in names or [] if name not in known]
    if unknown:
        raise UserError(f"--{option} {' '.join(unknown)}: expected some of {', '.join(known)}")


def compare(given: argparse.Namespace, work: Path) -> None:
    experiment = experiments.load(given.experiment)
    _check("only", given.only, experiment.variants)
    _check("strips", given.strips, given.only or experiment.variants)
    content = presets.merged(params.read_yaml(given.project / "params.yaml"), LEAN)
    content = presets.merged(content, {"base": {"threads": given.threads}})
    rows = {}
    for name, overlay in experiment.variants.items():
        if not given.only or name in given.only:
            settings = params.parse(presets.merged(content, overlay))
            rows[name] = train_row(settings, given.project.absolute(), work / name)
    table = measures(work, rows)
    given.out.mkdir(parents=True, exist_ok=True)
    title = given.name or experiment.name
    (given.out / f"{title}.md").write_text(markdown(table) + "\n")
    found = [row.dropna().to_dict() for _, row in table.iterrows()]  # baselines have no seconds
    write_json(given.out / f"{title}.json", {"rows": rows, "measures": found})
    drift(work, rows, given.out / f"{title}-drift.png")
    in_strips = {name: row for name, row in rows.items() if name in (given.strips or rows)}
    strips(work, in_strips, given.out / f"{title}.png")
    high = table[table.group == "high"].set_index("candidate")
    told = [
        line(f"transformer/{name}/{key}", row[key], unit)
        for name, row in high.iterrows()
        for key, unit in (("psnr", "dB"), ("lpips", ""), ("seconds", "s a clip"))
        if not np.isnan(row[key])
    ]
    show(told, f"{title}: the third of the test clips with most motion")


if __name__ == "__main__":
    run_main(main)
