"""Quality of in-betweens by parameter, seed and training time: trains and evaluates each row.

    python -m benchmarks.quality                                     # all rows of ROWS
    python -m benchmarks.quality --rows default --seeds 1 2 3
    python -m benchmarks.quality --rows default --times 0.25 1 4 --plot curve.png
    python -m benchmarks.quality --data /path/to/another/project     # on its data/ folder
    python -m benchmarks.quality --rows x --set vqgan.channels=48

A row is a set of parameters over params.yaml. Each runs the stages vqgan_train, token_precompute,
gpt2_train and evaluate in a folder of its own, on shards that `dvc repro shard_pack` made, without
DVC and without tracking. `--times` multiplies the epochs of both trainings. Prints a table for the
third with most motion and for all clips, then one JSON line a row; `--out` keeps these lines.
`--plot` draws quality against minutes of training, of this call and of the lines in `--out` before.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
STAGES = ("vqgan_train", "token_precompute", "gpt2_train", "evaluate")
INPUTS = ("shards", "clips", "frame_index")  # folders of data/ that the stages read
FAST = {  # of the evaluation: nothing that the table does not show
    "tracking.enabled": False,
    "evaluate.fid_network": "none",
    "evaluate.video_metrics": [],
    "evaluate.n_samples": 0,
    "evaluate.thesis_metrics": "none",
}
ROWS: dict[str, dict] = {
    "default": {},
    "flow_dis": {"flow.method": "dis"},
    "flow_rife": {"flow.method": "rife"},
    "even_timing": {"flow.easing": False},
    "no_lpips": {"vqgan.loss.perceptual_loss": "none"},
    "no_edges": {"vqgan.loss.edge_weight": 0.0},
    "no_mse": {"vqgan.loss.mse_weight": 0.0},
    "adversarial": {"vqgan.loss.discriminator.factor": 1.0},
    "encoder_network": {"vqgan.keyframes.encoder": "network"},
    "tokens_8": {"vqgan.patch_size": 32},
    "tokens_128": {"vqgan.patch_size": 8},
    "small_batch": {"vqgan.trainer.batch_size": 8},
    "one_span": {"vqgan.keyframes.spans_per_clip": 0},
    "maskgit": {"train.mode": "maskgit"},
    "context_none": {
        "vqgan.context": "none",
        "vqgan.vqvae.num_embeddings": 1024,
        "vqgan.vqvae.embedding_dim": 32,
        "vqgan.loss.perceptual_loss": "none",
        "vqgan.loss.edge_weight": 0.0,
        "vqgan.trainer.gen_lr": 1.0e-3,
    },
}
CANDIDATES = (
    "model",
    "without_codes",
    "untrained",
    "round_trip",
    "cross_fade",
    "optical_flow",
    "rife",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rows", nargs="+", default=list(ROWS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--times", nargs="+", type=float, default=[1.0], metavar="FACTOR")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--data", type=Path, default=ROOT, help="project with a data/ folder")
    parser.add_argument("--out", type=Path, help="file to which JSON lines are appended")
    parser.add_argument("--keep", type=Path, help="folder in which models and evaluations stay")
    parser.add_argument("--plot", type=Path, help="picture of quality against minutes of training")
    given = parser.parse_args()
    changes = dict(option.split("=", 1) for option in given.set)
    changes = {key: YAML(typ="safe").load(value) for key, value in changes.items()}
    results = []
    if given.out and given.out.is_file():
        lines = given.out.read_text("utf-8").splitlines()
        results = [json.loads(line) for line in lines]
    for name in given.rows:
        for factor in given.times:
            for seed in given.seeds:
                row = ROWS.get(name, {}) | changes | {"base.seed": seed}
                result = {"name": name, "times": factor, "seed": seed}
                result |= run_row(
                    row, factor, given.data.resolve(), given.keep, f"{name}-{factor:g}-{seed}"
                )
                results.append(result)
                print_table(result)
                if given.out:
                    with given.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(result) + "\n")
    for result in results:
        print(json.dumps(result))
    if given.plot:
        plot(results, given.plot)


def run_row(changes: dict, factor: float, data: Path, keep: Path | None, name: str) -> dict:
    """Seconds of each stage and the numbers of the evaluation; ends where a stage fails."""
    folder = Path(tempfile.mkdtemp(prefix="quality-"))
    try:
        (folder / "data").mkdir()
        for part in INPUTS:
            (folder / "data" / part).symlink_to(data / "data" / part)
        write_params(folder / "params.yaml", FAST | changes, factor)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "DVC_ROOT": str(folder)}
        seconds = {}
        for stage in STAGES:
            start = time.perf_counter()
            command = [sys.executable, "-m", f"stages.{stage}"]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True)
            if done.returncode:
                raise SystemExit(f"{name}, {stage}: {done.stderr.decode()[-2000:]}")
            seconds[stage] = round(time.perf_counter() - start, 1)
        metrics = json.loads((folder / "evaluation/details.json").read_text())
        if keep:
            shutil.copytree(folder, keep / name, dirs_exist_ok=True, symlinks=True)
        return {"seconds": seconds, "metrics": metrics, "groups": groups(folder)}
    finally:
        shutil.rmtree(folder)


def write_params(path: Path, changes: dict, factor: float) -> None:
    content = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = content
        for part in sections:
            section = section[part]
        section[last] = value
    for section in (content["vqgan"]["trainer"], content["train"]):
        section["n_epochs"] = max(1, round(section["n_epochs"] * factor))
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(content, file)


def groups(folder: Path) -> dict:
    """PSNR by motion group and candidate."""
    import pandas as pd

    table = pd.read_csv(folder / "evaluation/groups.csv")
    return {
        group: {row.method: round(row.psnr, 3) for row in rows.itertuples()}
        for group, rows in table.groupby("group")
    }


def print_table(result: dict) -> None:
    metrics, psnr = result["metrics"], result["groups"]
    minutes = sum(result["seconds"].values()) / 60
    print(
        f"\n{result['name']}, epochs x {result['times']:g}, seed {result['seed']}: "
        f"{minutes:.1f} min"
    )
    print(f"{'':16}{'low':>7}{'middle':>8}{'high':>7}{'all':>7}  LPIPS high   all  motion high")
    for name in CANDIDATES:
        if name not in psnr["all"]:
            continue
        high, every = (
            metrics[f"inbetween{suffix}"]
            if name == "model"
            else metrics[f"baselines{suffix}"][name]
            for suffix in ("_high_motion", "")
        )
        print(
            f"{name:16}{psnr['low'][name]:7.2f}{psnr['middle'][name]:8.2f}{psnr['high'][name]:7.2f}"
            f"{psnr['all'][name]:7.2f}  {high['lpips']:10.4f}{every['lpips']:7.4f}"
            f"{high.get('motion_ratio', float('nan')):12.2f}",
            flush=True,
        )


def plot(results: list[dict], path: Path) -> None:
    """What training changes in PSNR and LPIPS, against minutes of both trainings."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    panels = (("psnr", "PSNR over untrained, dB"), ("lpips", "LPIPS over untrained"))
    for axis, (metric, label) in zip(axes, panels, strict=True):
        for suffix, title, color in (
            ("", "all clips", "tab:blue"),
            ("_high_motion", "most motion", "tab:orange"),
        ):
            points = []
            for row in results:
                minutes = (row["seconds"]["vqgan_train"] + row["seconds"]["gpt2_train"]) / 60
                untrained = row["metrics"][f"baselines{suffix}"]["untrained"][metric]
                points.append((minutes, row["metrics"][f"inbetween{suffix}"][metric] - untrained))
            minutes, gains = zip(*sorted(points), strict=True)
            axis.plot(minutes, gains, "o-", color=color, label=title)
        axis.axhline(0, color="grey", linewidth=1)
        axis.set_xlabel("minutes of training")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
