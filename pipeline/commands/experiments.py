"""Named experiments: the thesis' figures and our own comparisons, one command each.

    python -m pipeline experiments                      the experiments, a line each
    python -m pipeline experiments figure_33            the commands of one, also by its name
    python -m pipeline experiments figure_33 --queue    queues them; `dvc queue start` runs them
    python -m pipeline experiments figure_33 --plot a.png     their curves, once they have run

An experiment is a file in presets/experiments: a stage and variants, each an overlay on params.yaml
(and on `base` and `preset`, where the file has them). DVC keeps what is alike between variants and
reruns the rest.
"""

import argparse
import io
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline import config
from pipeline.commands import presets
from pipeline.errors import UserError

FOLDER = presets.PRESETS / "experiments"
CURVES = {  # stage -> file in its output, column, axis
    "vqgan_train": ("models/vqgan/validation.csv", "psnr", "PSNR of the val pictures, dB"),
    "gpt2_train": ("models/gpt2/validation.csv", "total", "cross entropy of the val clips"),
}
KEYS = {"figures", "stage", "preset", "base", "variants"}


@dataclass(frozen=True)
class Experiment:
    """Runs of one stage that differ in few parameters."""

    name: str
    description: str
    figures: list[int]  # of the thesis
    stage: str
    variants: dict[str, dict]  # what each changes, nested as in params.yaml

    def run_name(self, variant: str) -> str:
        """As DVC and MLflow show it."""
        return f"{self.name}-{variant}".replace("_", "-")

    def command(self, variant: str, queue: bool = False) -> list[str]:
        flags = presets.as_flags(self.variants[variant])
        queued = ["--queue"] if queue else []
        return ["dvc", "exp", "run", *queued, "--name", self.run_name(variant), *flags, self.stage]


def names(folder: Path = FOLDER) -> list[str]:
    return presets.names(folder)


def load(name: str, folder: Path = FOLDER) -> Experiment:
    """By its own name, or `figure_N`."""
    found = name if name in names(folder) else _of_figure(name, folder)
    if found is None:
        known = ", ".join(names(folder)) or f"none, {folder}/ is missing or empty"
        raise UserError(f"{name}: unknown experiment; expected figure_N or one of: {known}")
    path = folder / f"{found}.yaml"
    content = config.read_yaml(path)
    if unknown := content.keys() - KEYS:
        raise UserError(f"{path}: unknown {', '.join(sorted(unknown))}; expected {sorted(KEYS)}")
    if content.get("stage") not in CURVES:
        raise UserError(f"{path}: stage is {content.get('stage')}, expected one of {list(CURVES)}")
    common = presets.overlay(content["preset"]) if "preset" in content else {}
    common = presets.merged(common, content.get("base", {}))
    described = presets.description(found, folder)
    variants = {str(key): presets.merged(common, v or {}) for key, v in content["variants"].items()}
    return Experiment(found, described, content.get("figures", []), content["stage"], variants)


def _of_figure(name: str, folder: Path) -> str | None:
    number = name.removeprefix("figure_")
    for known in names(folder):
        figures = config.read_yaml(folder / f"{known}.yaml").get("figures", [])
        if number.isdecimal() and int(number) in figures:
            return known
    return None


def queue(experiment: Experiment) -> None:
    """Hands every variant to DVC's queue; the first that it refuses ends with its words."""
    for variant in experiment.variants:
        done = subprocess.run(experiment.command(variant, queue=True))
        if done.returncode:
            raise UserError(
                f"dvc refused {experiment.run_name(variant)} (its words are above); run "
                "`python -m pipeline check --experiment`"
            )


def curves(experiment: Experiment) -> pd.DataFrame:
    """The curve of every variant that has run: columns by variant, rows by epoch."""
    import dvc.api
    import dvc.exceptions
    import dvc.scm

    path, column, _ = CURVES[experiment.stage]
    found = {}
    for variant in experiment.variants:
        try:
            text = dvc.api.read(path, rev=experiment.run_name(variant))
        except (dvc.exceptions.DvcException, dvc.scm.SCMError, OSError):
            continue
        table = pd.read_csv(io.StringIO(text))
        found[variant] = table.set_index("epoch")[column]
    if not found:
        raise UserError(
            f"no run of {experiment.name} is there yet; `python -m pipeline experiments "
            f"{experiment.name} --queue`, then `dvc queue start`"
        )
    return pd.DataFrame(found)


def plot(table: pd.DataFrame, experiment: Experiment, path: Path) -> None:
    """A line a variant, as PNG."""
    import matplotlib
    from matplotlib.ticker import MaxNLocator

    matplotlib.use("Agg")
    axes = table.plot(figsize=(7, 4), linewidth=1.5, grid=True)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(CURVES[experiment.stage][2])
    axes.figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", help="an experiment, or figure_N of the thesis")
    parser.add_argument("--queue", action="store_true", help="hand all variants to DVC's queue")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the curves of what ran")
    given = parser.parse_args()
    if given.name is None:
        for name in names():
            print(f"{name:<22} {load(name).description}")
        return
    experiment = load(given.name)
    if given.plot:
        table = curves(experiment)
        plot(table, experiment, given.plot)
        print(table.tail(1).T.to_string(header=False, float_format="{:.3f}".format))
    elif given.queue:
        queue(experiment)
        print("queued; `dvc queue start -j 1` runs them, `dvc queue status` shows them")
    else:
        for variant in experiment.variants:
            print(shlex.join(experiment.command(variant)))
