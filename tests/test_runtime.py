"""PyTorch's preparation: devices that are not there, threads, precision, torchvision."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline import runtime
from pipeline.errors import UserError

ROOT = Path(__file__).parents[1]


def python(code: str, *paths: Path, **variables: str) -> str:
    """Runs code in a fresh interpreter; gives what it prints."""
    path = os.pathsep.join(map(str, [*paths, ROOT]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.mark.parametrize("name", ["cuda:99", "cuda:8"])
def test_a_gpu_that_is_not_there_is_said(name):
    with pytest.raises(UserError, match=rf"base\.device = '{name}'.*use cpu, or install"):
        runtime.find_device(name)


def test_without_a_gpu_cuda_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert runtime.find_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="sees 0 GPUs"):
        runtime.find_device("cuda")


def test_with_two_gpus_the_third_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert runtime.find_device("cuda").type == "cuda"
    assert runtime.find_device("cuda:1").index == 1
    with pytest.raises(UserError, match="sees 2 GPUs"):
        runtime.find_device("cuda:2")


def test_prepare_sets_threads_and_seed(tiny):
    before = torch.get_num_threads()
    try:
        numbers = []
        for seed in (3, 3, 4):
            device = runtime.prepare(tiny({"base.threads": 2, "base.seed": seed}).base)
            numbers.append(torch.rand(1).item())
            assert device == torch.device("cpu") and torch.get_num_threads() == 2
        assert numbers[0] == numbers[1] != numbers[2]
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("precision", "kind"), [("float32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_precision_decides_the_type_of_products(precision, kind):
    a = torch.rand(2, 2)
    with runtime.autocast(torch.device("cpu"), precision):
        assert (a @ a).dtype == kind


def test_torchvision_and_gpt2_can_be_imported_after_the_repair():
    code = """
from pipeline.runtime import repair_torchvision
repair_torchvision()
repair_torchvision()
import torchvision
from transformers import GPT2Config, GPT2Model
print(type(GPT2Model(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=5))).__name__)
"""
    assert python(code) == "GPT2Model"


def test_nothing_is_declared_where_nothing_is_broken(tmp_path):
    """Torchvision that works, is absent, or fails otherwise; then one that lacks the operators."""
    folder = tmp_path / "torchvision"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    code = f"""
import pathlib, sys, torch
from pipeline.runtime import repair_torchvision
repair, file = repair_torchvision.__wrapped__, pathlib.Path({str(folder / "__init__.py")!r})
sys.dont_write_bytecode = True

def declared():
    return hasattr(torch.ops.torchvision, "nms")

def become(text):
    file.write_text(text)
    sys.modules.pop("torchvision", None)

repair(); print("works", declared())
sys.modules["torchvision"] = None
repair(); print("absent", declared())
become("raise RuntimeError('something else, and of another length')")
try:
    repair()
except RuntimeError as error:
    print("other", declared())
become('''
import torch
if not hasattr(torch.ops.torchvision, "nms"):
    raise RuntimeError("operator torchvision::nms does not exist")
''')
repair(); print("broken", declared(), "torchvision" in sys.modules)
"""
    found = python(code, tmp_path).splitlines()
    assert found == ["works False", "absent False", "other False", "broken True True"]
