"""Two processes: the losses of one with twice the batch, exact resume, one voice, common ends."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import scenarios
import torch

from pipeline.errors import UserError
from pipeline.models.checkpoints import load_tokenizer, save_tokenizer, sign_tokens
from pipeline.models.vqgan.keyframes import KeyframeTokenizer
from pipeline.resume import Resume
from pipeline.training.distributed import SINGLE_PROCESS, DistributedContext, connected
from pipeline.training.trainer import TrainConfig, Trainer

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
OWN_FRAMES = {"train.stop_ground_truth_after_epoch": 1}
ALIKE = {  # name: kind, its own keys, plan of each of two processes
    "little": ("little", {"rows": 13}, {"batch_size": 3, "accumulation_size": 1}),
    "gathered": ("little", {"rows": 17}, {"batch_size": 2, "accumulation_size": 2}),
    "few_rows": ("little", {"rows": 6}, {"batch_size": 8, "accumulation_size": 1}),
    "full_clip": ("transformer", {"changes": OWN_FRAMES}, {"batch_size": 2}),
    "sliding_window": (
        "transformer",
        {"changes": OWN_FRAMES | {"train.sequence": "sliding_window"}},
        {"batch_size": 2},
    ),
}
ADVERSARIAL = {
    "vqgan.loss.discriminator.factor": 1.0,
    "vqgan.loss.discriminator.iter_start": 3,
}
IMAGES = {"vqgan.context": "none"}
TOKENIZERS = {
    "images_ema": IMAGES,
    "images_vq": IMAGES | {"vqgan.vqvae.quantizer": "vq"},
    "keyframes": {"vqgan.keyframes.encoder": "network"},
}
ALIKE |= {
    name: ("tokenizer", {"changes": ADVERSARIAL | changes}, {"batch_size": 3})
    for name, changes in TOKENIZERS.items()
}
DROPOUT = {"transformer.dropout": 0.2}
CHANCE = {  # all that draws random numbers
    "train.mode": "maskgit",
    "train.batch_method": "truncation",
    "train.token_noise": 0.5,
    "train.stop_ground_truth_after_epoch": 1,
}
KILLED = {
    "keyframes_chance": ("tokenizer", {"changes": {}}, {"batch_size": 3}),
    "little_dropout": ("little", {"rows": 13, "dropout": 0.3}, {"batch_size": 3}),
    "full_clip_dropout": ("transformer", {"changes": DROPOUT}, {"batch_size": 2}),
    "full_clip_chance": ("transformer", {"changes": CHANCE}, {"batch_size": 2}),
}


def python(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess:
    """Runs it in a working folder that is also DVC's root."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests/training")])
    variables = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "DVC_ROOT": str(folder)}
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | variables,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, write_tokens) -> Path:
    """Clips of many lengths: the processes' batches hold unlike numbers of frames."""
    generator = torch.Generator().manual_seed(0)
    lengths = {"train": (6, 8, 5, 7, 6, 9, 5, 5, 8, 6, 11, 7, 5), "val": (6, 5, 8)}
    clips = {
        split: [torch.randint(0, 16, (n, 32), generator=generator) for n in those]
        for split, those in lengths.items()
    }
    return write_tokens(tmp_path_factory.mktemp("tokens"), clips)


@pytest.fixture(scope="module")
def two(tmp_path_factory, tiny, tokens, shards) -> SimpleNamespace:
    """All scenarios in two processes under torchrun, and how to do one of them alone."""
    folder = tmp_path_factory.mktemp("two")
    base = tiny({"base.launcher": "torchrun --nproc-per-node=2"}).base.model_dump()

    def job(name: str, kind: str, own: dict, plan: dict, **more) -> dict:
        settings = tiny(own.get("changes")).model_dump()
        own = {key: value for key, value in own.items() if key != "changes"}
        common = {"name": name, "kind": kind, "base": base}
        common |= {"tokens": str(tokens), "shards": str(shards)}
        plan = {"checkpoint_interval": 1e9} | plan
        return common | {"settings": settings, "plan": plan} | own | more

    trainings = [job(name, *rest) for name, rest in (ALIKE | KILLED).items()]
    often = {"checkpoint_interval": 0.0}
    trainings += [
        job(f"{name}_killed", kind, own, plan | often, kill_at=5)
        for name, (kind, own, plan) in KILLED.items()
    ]
    (folder / "jobs.json").write_text(json.dumps({"base": base, "trainings": trainings}))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = ROOT / "tests/training/scenarios.py"
    done = python(*command, script, folder, folder=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [torch.load(folder / f"{index}.pt") for index in (0, 1)]
    return SimpleNamespace(found=found, folder=folder, jobs={t["name"]: t for t in trainings})


def close(found: list[dict], wanted: list[dict], tolerance: float = 1e-5) -> bool:
    return len(found) == len(wanted) and all(
        row == pytest.approx(other, rel=tolerance, abs=tolerance)
        for row, other in zip(found, wanted, strict=True)
    )


@pytest.mark.parametrize("name", ALIKE)
def test_two_processes_train_as_one_with_twice_the_batch(two, name):
    job = two.jobs[name] | {"name": f"{name}_alone"}
    job["plan"] = job["plan"] | {"batch_size": 2 * job["plan"]["batch_size"]}
    alone = scenarios.done(job, SINGLE_PROCESS)
    first, second = (found[name] for found in two.found)
    assert len(alone["steps"]) >= 2 and len(alone["epochs"]) == 3
    for each in ("steps", "epochs"):
        assert close(first[each], alone[each])
    torch.testing.assert_close(first["weights"], alone["weights"], rtol=1e-3, atol=1e-4)
    assert torch.equal(first["weights"], second["weights"]), "the same in both"
    assert first["logged"] == alone["logged"] and not second["logged"], "one speaks for all"


@pytest.mark.parametrize("name", KILLED)
def test_two_processes_killed_and_continued_equal_uninterrupted_ones(two, name):
    for found in two.found:
        whole, killed = found[name], found[f"{name}_killed"]
        assert killed["steps"] == whole["steps"] and killed["epochs"] == whole["epochs"]
        assert torch.equal(killed["weights"], whole["weights"]), "to the last bit"
    assert min(two.found[0][f"{name}_killed"]["logged"]) > 5, "did not begin anew"
    assert not (two.folder / f".resume/{name}_killed").exists(), "deleted at success"


def test_dropout_is_another_in_each_process(two):
    """Else two halves of a batch would lose the same units: the curve of one process differs."""
    job = two.jobs["little_dropout"] | {"name": "x", "dropout": 0.0}
    job["plan"] = job["plan"] | {"batch_size": 6}
    assert not close(
        two.found[0]["little_dropout"]["steps"], scenarios.done(job, SINGLE_PROCESS)["steps"]
    )


def test_what_processes_tell_each_other(two):
    for found in two.found:
        said = found["speaking"]
        assert said["mean"].tolist() == [1.0, 0.5] and said["max"] == [1, 0, 7]
        assert said["all_gather"].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
        assert said["all_gather_object"] == [{"rank": 0}, {"rank": 1}]
        assert (said["broadcast"] == 0).all(), "as in the first"
        assert found["threads"] == 1


def test_alone_everything_is_given_back():
    values = torch.rand(3, requires_grad=True)
    assert (
        SINGLE_PROCESS.is_main
        and SINGLE_PROCESS.mean(values) is values
        and SINGLE_PROCESS.all_gather(values) is values
    )
    assert SINGLE_PROCESS.max(3, 4) == [3, 4] and SINGLE_PROCESS.all_gather_object("a") == ["a"]


def test_a_nan_in_one_process_stops_both_and_is_told_by_its_rows(two):
    first, second = (found["failing"] for found in two.found)
    state = next(two.folder.glob(".resume/failing/*.failed.pt"))
    pattern = r"not finite at step \d of epoch 1: total, square \(.*row 3"
    assert re.match(pattern, first) and str(state) in first
    assert first.split(";")[0] == second.split(";")[0]
    assert len(torch.load(state)["rng"]) == 2


def test_more_processes_than_rows_are_refused(two):
    for found in two.found:
        assert "starts 2 processes, but the train split has 1 examples" in found["few"]


@pytest.mark.parametrize(("rows", "batch", "accumulated"), [(24, 2, 2), (24, 4, 1), (11, 8, 1)])
def test_batches_of_all_processes_are_those_of_one(rows, batch, accumulated, own_root):
    """Batch k of process p holds the p-th part of the k-th large batch."""

    def batches(world_size: int, rank: int, size: int) -> list[list[int]]:
        task = scenarios.TwoPlayers(DistributedContext(world_size, rank, CPU), rows)
        config = TrainConfig(size, 1, 5, accumulation_size=accumulated)
        return Trainer(task, config, Resume("a", {}, []), print).batches(0, 0)[0]

    three = [batches(3, rank, batch) for rank in range(3)]
    together = [[row for part in parts for row in part] for parts in zip(*three, strict=True)]
    alone = batches(1, 0, 3 * batch)
    if rows % 3 == 0:
        assert together == alone
    assert len({len(part) for parts in three for part in parts}) == 1
    assert sum(map(len, together)) == min(rows - rows % 3, 3 * batch * accumulated)


# How they start.


@pytest.fixture
def stage_folder(tmp_path, tiny, tokens):
    """A working folder in which `python -m stages.gpt2_train` finds everything."""
    from ruamel.yaml import YAML

    def make(changes: dict) -> Path:
        settings = tiny({"engine.checkpoint_interval": 0.0} | changes)
        YAML().dump(settings.model_dump(), tmp_path / "params.yaml")
        (tmp_path / "data").mkdir()
        (tmp_path / "data/tokens").symlink_to(tokens)
        torch.manual_seed(1)
        size = settings.ingest.height, settings.ingest.width
        tokenizer = KeyframeTokenizer(settings.vqgan, *size)
        save_tokenizer(tokenizer, settings, tmp_path / "models/vqgan")
        loaded = load_tokenizer(tmp_path / "models/vqgan", torch.device("cpu"))
        sign_tokens(tmp_path / "data/tokens", loaded)
        return tmp_path

    return make


def test_a_stage_under_torchrun(stage_folder):
    folder = stage_folder({"base.launcher": "torchrun --nproc-per-node=2"})
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = python(*command, "-m", "stages.gpt2_train", folder=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("gpt2_train: starts") == 1 and "Traceback" not in done.stderr
    written = {path.name for path in (folder / "models/gpt2").iterdir()}
    assert written >= {"model.safetensors", "config.json", "history.csv", "summary.json"}
    assert json.loads((folder / "models/gpt2/summary.json").read_text())["steps"] == 6
    assert not list(folder.glob(".resume/*/*"))


def test_the_saved_state_lives_until_the_model_is_on_disk(stage_folder, monkeypatch):
    from stages import gpt2_train

    folder = stage_folder({})
    monkeypatch.chdir(folder)
    save = gpt2_train.save_gpt

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gpt2_train, "save_gpt", full)
    try:
        with pytest.raises(OSError):
            gpt2_train.main()
        (state,) = folder.glob(".resume/gpt2_train/" + "?" * 16 + ".pt")
        steps = torch.load(state)["step"]
        monkeypatch.setattr(gpt2_train, "save_gpt", save)
        gpt2_train.main()
    finally:
        torch.use_deterministic_algorithms(False)
    assert steps == json.loads((folder / "models/gpt2/summary.json").read_text())["steps"]
    assert not (folder / ".resume/gpt2_train").exists()


@pytest.mark.parametrize(
    ("rank", "launcher"), [("0", "python"), (None, "torchrun --nproc-per-node=2")]
)
def test_another_launcher_than_the_parameter_says_is_refused(tiny, monkeypatch, rank, launcher):
    monkeypatch.delenv("RANK", raising=False)
    if rank:
        monkeypatch.setenv("RANK", rank)
    base = tiny({"base.launcher": launcher}).base
    message = rf"base\.launcher = '{launcher}'.*start it as `{launcher} -m stages"
    with pytest.raises(UserError, match=message), connected(base):
        pass


LOST = {  # what torch.distributed says, what we say; "": nothing
    "[../gloo/tcp/pair.cc:5] Connection closed by peer [10.0.0.2]:9. Check\nat": "[10.0.0.2]:9)",
    "[1] Gloo connectFullMesh failed with timed out": "timed out)",
    "mat1 and mat2 shapes cannot be multiplied": "",
}


@pytest.mark.parametrize("text", LOST)
def test_a_process_that_is_lost_is_one_sentence(tiny, monkeypatch, text):
    monkeypatch.setattr("pipeline.runtime.prepare", lambda base: CPU)
    for name in ("init_process_group", "get_rank", "get_world_size"):
        monkeypatch.setattr(torch.distributed, name, lambda *arguments, **options: 2)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    base = tiny({"base.launcher": "torchrun --nnodes=2"}).base
    with pytest.raises(UserError if LOST[text] else RuntimeError) as caught, connected(base):
        raise RuntimeError(text)
    if LOST[text]:
        message = str(caught.value)
        assert message.startswith("process 2 of 2 lost another one (") and "\n" not in message
        assert LOST[text] in message and "start the same command again on all" in message


@pytest.mark.parametrize("device", ["cuda:1", "cuda"])
def test_each_process_wants_a_gpu_of_its_own(tiny, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4 if device == "cuda:1" else 1)
    monkeypatch.setattr("pipeline.runtime.prepare", lambda base: torch.device(base.device))
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    base = tiny({"base.launcher": "torchrun --nproc-per-node=2", "base.device": device}).base
    message = rf"starts 2 processes.*base\.device = '{device}' gives \d GPUs"
    with pytest.raises(UserError, match=message), connected(base):
        pass
