"""A folder to draw in: parameters, small random models, pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML


@pytest.fixture
def project(tmp_path, monkeypatch, tiny, saved_models):
    """A folder with params.yaml, random models and the pictures a, b and mid.png of 30x50."""

    def make(**changes) -> Path:
        settings = tiny({name.replace("__", "."): value for name, value in changes.items()})
        with (tmp_path / "params.yaml").open("w") as file:
            YAML(typ="safe").dump(settings.model_dump(), file)
        saved_models(tmp_path / "models", settings)
        for name, seed in (("a", 0), ("b", 1), ("mid", 2)):
            random = np.random.default_rng(seed)
            picture = random.integers(1, 256, (30, 50, 3), np.uint8)
            Image.fromarray(picture).save(tmp_path / f"{name}.png")
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return make
