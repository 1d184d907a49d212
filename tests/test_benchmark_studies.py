"""benchmarks.studies: each variant of the thesis' studies is a configuration of its own."""

import shutil
from pathlib import Path

import pytest

from benchmarks import studies
from pipeline import config

ROOT = Path(__file__).parents[1]


def test_each_variant_is_valid_another_and_of_some_study(tmp_path, monkeypatch):
    hydra = pytest.importorskip("dvc.utils.hydra")
    monkeypatch.chdir(ROOT)
    places = {"mnist": tmp_path, "pretrained": tmp_path}
    parsed = set()
    for variant in studies.VARIANTS:
        flags = studies.parameters(variant, 1, places)
        shutil.copy(ROOT / "params.yaml", tmp_path)
        hydra.apply_overrides(tmp_path / "params.yaml", flags[1::2])
        parsed.add(config.load(tmp_path / "params.yaml").model_dump_json())
    assert len(parsed) == len(studies.VARIANTS)
    named = {variant for study in studies.STUDIES.values() for variant in study.variants.values()}
    assert named == studies.VARIANTS.keys()
