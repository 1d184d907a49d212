"""Says everything that stands between this folder and a run, all at once, a sentence each.

    python -m pipeline check                before `dvc repro`
    python -m pipeline check --experiment   before `dvc exp run`: what only that needs is an error

Errors stop a run, warnings and hints do not. Exit code 1 where there is an error. DVC refuses some
of this in its own words; here the remedy stands beside it.
"""

import argparse
import importlib.metadata
import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline import config
from pipeline.config import Params
from pipeline.data import moving_mnist
from pipeline.errors import UserError, read_text
from pipeline.models.pretrained import required_weights

REQUIREMENTS = Path("requirements.txt")
RAY_REQUIREMENTS = Path("requirements-ray.txt")
DVC_FILE = Path("dvc.yaml")
SAMPLE_STAGE = "sample_episodes"  # the one stage that makes what may be the source
STORES = Path(".git"), Path(".dvc"), Path(".store")
MOST_FILES = 100_000  # of the source that are looked at: some seconds
CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}
LINKED = "a link to a folder: it is read, but DVC sees no change in it; name that folder instead"
FREE_GB = 5  # environment excepted, the default run needs about one
VIDEO_SUFFIXES = (
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m2ts", ".ts", ".mts")
    + (".mxf", ".wmv", ".flv", ".ogv", ".ogg", ".3gp", ".gif")
)  # fmt: skip
DEVELOPMENT = (  # no stage runs these
    ("hypothesis", "pytest", "pytest-timeout", "pytest-xdist", "ruff")
    + ("vector-quantize-pytorch",)
)  # fmt: skip


class Finding(NamedTuple):
    """One sentence: what is wrong, what was expected, and what to do."""

    level: Literal["error", "hint", "warning"]
    sentence: str


def findings(params_file: Path = config.PARAMS_FILE, experiment: bool = False) -> list[Finding]:
    """All that is to be said of the current folder, errors first."""
    checks: list[Callable[[], Iterable[Finding]]]
    checks = [project_files, packages, interpreter, partial(git, experiment), disk]
    items = []
    try:
        settings = config.load(params_file)
    except UserError as error:
        items.append(Finding("error", str(error)))
    else:
        about = (source, hidden_footage, device, memory, weight_files, tracking_store)
        checks += [partial(check, settings) for check in about]
        if settings.engine.kind == "ray":
            checks.append(partial(packages, RAY_REQUIREMENTS))
    for check in checks:
        try:
            items += check()
        except UserError as error:  # a file of the project that cannot be read
            items.append(Finding("error", str(error)))
    return sorted(dict.fromkeys(items), key=lambda item: item.level)  # each once


def require_weights(settings: Params) -> None:
    """For stages that work long: a UserError before the work, not hours later in `evaluate`."""
    missing = [item.sentence for item in weight_files(settings)]
    if missing:
        raise UserError("weight files are missing\n  " + "\n  ".join(missing))


def project_files() -> Iterator[Finding]:
    for path in (REQUIREMENTS, DVC_FILE):
        if not path.exists():
            yield Finding("error", f"{path} is missing; bring it back from git")


def packages(requirements: Path = REQUIREMENTS) -> Iterator[Finding]:
    """Pinned packages that are not there, or there in another version."""
    missing, other = [], []
    lines = read_text(requirements).splitlines() if requirements.exists() else []
    for line in lines:
        name, pinned, version = line.partition("#")[0].strip().partition("==")
        name, version = name.partition("[")[0].strip(), version.partition(";")[0].strip(" =")
        if not (name and pinned) or name in DEVELOPMENT:
            continue
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if installed.split("+")[0] != version:  # +cpu, +cu126: the same
            other.append(f"{name} {installed} instead of {version}")
    remedy = f"run `pip install -r {requirements}`"
    if missing:
        yield Finding("error", f"packages missing: {', '.join(missing)}; {remedy}")
    if other:
        yield Finding("error", f"packages of another version: {', '.join(other)}; {remedy}")


def interpreter() -> Iterator[Finding]:
    """DVC runs the stages with the `python` that PATH finds first, not with its own."""
    first = shutil.which("python")
    if first is None or Path(first).parent.resolve() != Path(sys.executable).parent.resolve():
        yield Finding(
            "warning",
            f"stages run with {first or 'no `python`'} as PATH has it, this check with "
            f"{sys.executable}; activate the environment (`. .venv/bin/activate`)",
        )


def git(experiment: bool) -> Iterator[Finding]:
    """What DVC needs of git: a repository always, a commit and an identity for experiments."""
    if shutil.which("git") is None:
        yield Finding("error", "git is not installed, and DVC needs it; install git")
        return
    if _git("rev-parse", "--git-dir") is None:
        yield Finding("error", "no git repository here; run `git init`, or work in a clone")
        return
    level = "error" if experiment else "warning"
    if _git("rev-parse", "--verify", "--quiet", "HEAD") is None:
        yield Finding(
            level,
            "no commit yet, and `dvc exp run` starts from one; run `git add -A && git commit`",
        )
    unknown = []
    for name in ("name", "email"):
        if not (_git("config", f"user.{name}") or os.environ.get(f"GIT_COMMITTER_{name.upper()}")):
            unknown.append(f'git config user.{name} "..."')
    if unknown:
        commands = " && ".join(unknown)
        yield Finding(level, f"git has no identity, and `dvc exp run` commits; run `{commands}`")


def disk(folder: Path = Path(), enough_gb: float = FREE_GB) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free / 1e9
    if free < enough_gb:
        yield Finding(
            "warning", f"{free:.1f} GB of disk are free, {enough_gb:g} GB are advisable; free some"
        )


def source(settings: Params, dvc_file: Path = DVC_FILE) -> Iterator[Finding]:
    """The folder of episodes. One that a stage makes may be absent before the first run."""
    path = Path(settings.source.path)
    name = f"source.path = {path}"
    remedy = "put videos there, or name another folder with source.path"
    outs = stage_outputs(dvc_file)
    others = [*STORES, *(out for out, stage in outs.items() if stage != SAMPLE_STAGE)]
    inside, holds = _related(path, others)
    if inside or holds:
        where = f"lies in {inside[0]}" if inside else f"holds {holds[0]}"
        what = "name a folder in which there is only footage"
        yield Finding("error", f"{name}: {where}, where a run or git writes; {what}")
    elif path.is_symlink() and not path.exists():
        yield Finding("error", f"{name}: a broken link; {remedy}")
    elif settings.source.kind == "moving_mnist":
        try:  # by the files' names; what is in them is looked at when they are read
            moving_mnist.locate(path)
        except UserError as error:
            yield Finding("error", str(error))
    elif not path.exists():
        if not any(_related(path, outs)):
            yield Finding("error", f"{name}: no such folder; {remedy}")
    elif not path.is_dir():
        yield Finding("error", f"{name}: a file, expected a folder of videos; {remedy}")
    else:
        yield from _folder(path, name, remedy)


def _folder(path: Path, name: str, remedy: str) -> Iterator[Finding]:
    """What lies in the folder of episodes, as DVC walks it: links to folders are not entered."""
    faults, waiting, count, footage = defaultdict(list), [path], 0, False
    while waiting and count < MOST_FILES:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in itertools.islice(entries, MOST_FILES - count):
                    count += 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    if fault := _fault(entry):
                        faults[fault].append(os.fsencode(entry.path).decode("utf-8", "replace"))
                    footage |= Path(entry.name).suffix.lower() in VIDEO_SUFFIXES
        except OSError as error:
            faults[f"cannot be read ({error.strerror}): mend that"].append(str(folder))
    for fault, items in faults.items():
        rest = f" and {len(items) - 3} more" if len(items) > 3 else ""
        level = "warning" if fault == LINKED else "error"
        yield Finding(level, f"{name}: {', '.join(items[:3])}{rest}: {fault}")
    if count == MOST_FILES:
        many = f"{MOST_FILES:,} files or more, all of which DVC hashes"
        yield Finding("warning", f"{name}: {many}; the others were not looked at")
    elif not count:
        yield Finding("error", f"{name}: the folder is empty; {remedy}")
    elif not faults and not footage:
        yield Finding(  # no more than a warning: `ingest` looks into the files, not at their names
            "warning",
            f"{name}: no file in it is named like a video (.mp4, .mkv, .webm, ...); {remedy}",
        )


def _fault(entry: os.DirEntry) -> str:
    """What is wrong with an entry of the source, and what to do; "" where nothing is."""
    if any(0xD800 <= ord(letter) < 0xE000 for letter in entry.name):
        return "a name that is no UTF-8, which DVC refuses; rename it"
    if entry.is_dir(follow_symlinks=False):
        return ""
    try:
        if entry.is_dir():
            return LINKED
        if not entry.is_file():
            entry.stat()
            return "a pipe, socket or device, for which DVC waits for ever; remove it"
    except OSError:
        return "a broken link, which DVC refuses; remove it"
    return "" if os.access(entry.path, os.R_OK) else "cannot be read; change its permissions"


def _related(path: Path, others: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Those that the path is or lies in, and those that it holds, links resolved."""
    real = Path(os.path.realpath(path))
    reals = [(other, Path(os.path.realpath(other))) for other in others]
    inside = [other for other, place in reals if place == real or place in real.parents]
    return inside, [other for other, place in reals if real in place.parents]


def hidden_footage(settings: Params, dvc_file: Path = DVC_FILE) -> Iterator[Finding]:
    """Footage that git does not know is not in the copies that queued experiments work in."""
    path = Path(settings.source.path)
    made = any(_related(path, [*STORES, *stage_outputs(dvc_file)]))
    if (
        made
        or not path.is_dir()
        or path.is_absolute()
        or Path(f"{path}.dvc").is_file()
        or _git("rev-parse", "--git-dir") is None
    ):
        return
    if not _git("ls-files", "--", str(path)):
        yield Finding(
            "warning",
            f"source.path = {path}: git does not know these files, so `dvc exp run --temp` and "
            f"`--queue` do not see them (dvc repro and dvc exp run do); `dvc add {path}`, commit "
            f"{path}.dvc, or name an absolute path",
        )


def device(settings: Params) -> Iterator[Finding]:
    """A GPU that is missing or idle; bf16 on a processor that has to imitate it."""
    name = settings.base.device
    if name.startswith("cuda"):
        count = _gpus()
        if int(name.partition(":")[2] or 0) >= count:
            there = "1 GPU" if count == 1 else f"{count or 'no'} GPUs"
            yield Finding(
                "error",
                f"base.device = {name}: PyTorch sees {there}; set base.device to cpu, or "
                "install a CUDA build of PyTorch (`make repro TORCH_INDEX=...`)",
            )
        return
    if shutil.which("nvidia-smi") and _gpus():
        yield Finding("hint", "a GPU is here: -S base.device=cuda -S base.precision=bf16 uses it")
    if settings.base.precision == "bf16" and _has_bf16() is False:
        yield Finding(
            "warning",
            "base.precision = bf16: this processor has no bf16 instructions, so it will be slow; "
            "set base.precision to float32",
        )


def memory(settings: Params, free: float | None = None) -> Iterator[Finding]:
    """Batches whose frames and activations alone, counted low, are more than this machine has."""
    if settings.base.device != "cpu":
        return
    if free is None:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    vqgan, size, gpt = settings.vqgan, settings.ingest, settings.transformer
    patch, channels = vqgan.patch_size, 3
    if vqgan.context == "none":
        patch = vqgan.autoencoder.patch_size * 2 ** (len(vqgan.autoencoder.channels_multiplier) - 1)
    elif vqgan.context == "keyframes":
        channels = 6 + vqgan.channels  # both warps, and the decoder's finest level
    pixels = size.height * size.width
    tokens = settings.clip_chunk.min_frames * pixels // patch**2
    needed = {
        "vqgan.trainer.batch_size": 4 * pixels * channels,
        "train.batch_size": 4 * tokens * (gpt.n_embd * gpt.n_layer + vqgan.vqvae.num_embeddings),
    }
    batches = vqgan.trainer.batch_size, settings.train.batch_size
    for (key, each), batch in zip(needed.items(), batches, strict=True):
        if (gigabytes := batch * each / 1e9) > free:
            yield Finding(
                "error",
                f"{key} = {batch}: takes {gigabytes:,.0f} GB or more, and this machine has "
                f"{free:.0f} GB; lower it, and raise accumulation_size instead",
            )


def weight_files(settings: Params) -> list[Finding]:
    """Pretrained networks that training or evaluation will read and that are not there."""
    return [Finding("error", sentence) for sentence in required_weights.faults(settings)]


def tracking_store(settings: Params) -> Iterator[Finding]:
    """A store that MLflow cannot open: runs go on without a row. Names killed runs so."""
    if not settings.tracking.enabled or not importlib.util.find_spec("mlflow"):
        return
    from pipeline import tracking
    from pipeline.tracking import mlflow_row

    for name, command in tracking.unfilled():
        note = tracking.NOTES / f"{name}.json"
        yield Finding("hint", f"{name} is not in MLflow; `{command}` fills it in, or delete {note}")
    store = mlflow_row.sqlite_file()
    if store and not store.exists():
        return  # the first training makes it
    if fault := mlflow_row.fault():
        yield Finding("warning", fault)
        return
    try:
        killed = mlflow_row.close_killed()
    except Exception as error:  # of many kinds: mlflow's, its database's, its network's
        where = store or "the server of MLFLOW_TRACKING_URI"
        later = "runs go on without it, and this command then says how they get there"
        yield Finding("warning", f"{where}: {mlflow_row.sentence(error)}; {later}")
    else:
        if killed:
            names = ", ".join(killed)
            yield Finding("hint", f"{names}: killed while it ran, and now named so in MLflow")


def _gpus() -> int:
    """GPUs that PyTorch sees. Importing it costs two seconds: only asked where it matters."""
    if importlib.util.find_spec("torch") is None:
        return 0
    import torch

    return torch.cuda.device_count()


def _has_bf16() -> bool | None:
    """Whether the processor has bf16 instructions; None where that is not to be found out."""
    try:
        return not BF16_FLAGS.isdisjoint(CPUINFO.read_text("utf-8").lower().split())
    except OSError:
        return None


def stage_outputs(dvc_file: Path) -> dict[Path, str]:
    """What the stages in dvc.yaml write, and the stage of each."""
    if not dvc_file.exists():
        return {}
    outs = {}
    try:
        for name, stage in (config.read_yaml(dvc_file).get("stages") or {}).items():
            for out in stage.get("outs") or []:
                outs[Path(next(iter(out)) if isinstance(out, dict) else out)] = name
    except (AttributeError, TypeError):
        expected = "expected stages with outs as DVC has them"
        raise UserError(f"{dvc_file}: {expected}; bring it back from git") from None
    return outs


def _git(*arguments: str) -> str | None:
    """Output of a git command, None where it failed or git is missing."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def report(items: list[Finding]) -> str:
    """The findings as text, a sentence each."""
    lines = [f"{item.level}: {item.sentence}" for item in items]
    return "\n".join(lines) or "everything is in place"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline check", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--experiment", action="store_true", help="also require what only `dvc exp run` needs"
    )
    items = findings(experiment=parser.parse_args().experiment)
    print(report(items), file=sys.stderr if items else sys.stdout)
    sys.exit(any(item.level == "error" for item in items))
