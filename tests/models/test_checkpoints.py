"""Finished models on disk: what is saved is loaded, and what does not fit is named."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_settings import GRID
from torch import nn

from pipeline.errors import UserError
from pipeline.frames import to_float
from pipeline.models.checkpoints import (
    fingerprint,
    load_tokenizer,
    load_weights,
    require_own_tokens,
    save_tokenizer,
    save_weights,
    sign_tokens,
)
from pipeline.models.flow import Easing
from pipeline.models.gpt.checkpoint import load_gpt, save_gpt
from pipeline.models.gpt.model import Conditioning, FrameGpt, GptConfig
from pipeline.models.vqgan.keyframes import KeyframeTokenizer
from pipeline.models.vqgan.model import Tokenizer

CPU = torch.device("cpu")


@pytest.fixture
def make_tokenizer(tiny):
    def make(seed: int = 0, context: str = "keyframes") -> Tokenizer | KeyframeTokenizer:
        torch.manual_seed(seed)
        settings = tiny({"vqgan.context": context})
        kind = KeyframeTokenizer if context == "keyframes" else Tokenizer
        return kind(settings.vqgan, settings.ingest.height, settings.ingest.width).eval()

    return make


@pytest.fixture
def make_gpt(tiny):
    def make(changes: dict | None = None, context_channels: int = 0) -> FrameGpt:
        torch.manual_seed(0)
        return FrameGpt(GptConfig.from_params(tiny(changes), GRID, context_channels)).eval()

    return make


class Tied(nn.Module):
    """Two layers with one weight, as GPT-2's embedding and head."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.inner.weight
        self.register_buffer("counts", torch.rand(4))


def test_the_tokenizer_without_context_comes_back(tiny, make_tokenizer, tmp_path):
    settings, tokenizer = tiny({"vqgan.context": "none"}), make_tokenizer(context="none")
    save_tokenizer(tokenizer, settings, tmp_path)
    loaded, ingest, _, _ = load_tokenizer(tmp_path, CPU)
    assert ingest == settings.ingest.frame_size and not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    images = torch.rand(2, 3, 16, 32)
    assert torch.equal(loaded.encode(images), tokenizer.encode(images))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("encoder", ["linear", "network"])
def test_the_tokenizer_with_context_comes_back_with_its_flow(
    tiny, untrained, moving, tmp_path, encoder
):
    settings = tiny({"vqgan.keyframes.encoder": encoder, "flow.method": "mixed"})
    model = untrained(settings)
    save_tokenizer(model.tokenizer, settings, tmp_path, Easing(0.5, 0.25))
    loaded, ingest, method, easing = load_tokenizer(tmp_path, CPU)
    assert ingest == settings.ingest.frame_size and not loaded.training
    assert (method, easing) == ("mixed", Easing(0.5, 0.25))
    assert not any(p.requires_grad for p in loaded.parameters())
    clip = moving(5, 3)
    context = model.context(clip[0], clip[-1], 5, torch.arange(5))
    images = to_float(clip)
    ids = model.tokenizer.encode(images, context)
    assert ids.any() and torch.equal(loaded.encode(images, context), ids)
    assert torch.equal(loaded.decode(ids, context), model.tokenizer.decode(ids, context))


@pytest.mark.parametrize("sequence", ["full_clip", "sliding_window"])
@pytest.mark.parametrize("kind", ["custom", "plain"])
def test_the_transformer_comes_back(make_gpt, tmp_path, sequence, kind):
    changes = {"train.sequence": sequence, "transformer.transformer_type": kind}
    gpt = make_gpt(changes, context_channels=3)
    features = torch.randn(2, 7, 32, 3)
    gpt.fit_context(features + 1)
    gpt.init_bias(torch.arange(16))
    save_gpt(gpt, "abc", tmp_path)
    loaded, tokenizer_sha256 = load_gpt(tmp_path, CPU)
    assert tokenizer_sha256 == "abc"
    assert loaded.config == gpt.config and not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    frames = torch.randint(0, 16, (2, 2, 32))
    cond = Conditioning(frames[:, 1], torch.tensor([6, 7]), features)
    assert torch.equal(loaded(frames, cond), gpt(frames, cond))


def test_same_weights_same_bytes(make_gpt, tmp_path):
    for name in "ab":
        save_gpt(make_gpt(), "abc", tmp_path / name)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_tied_weights_are_saved_once_and_come_back_tied(tmp_path):
    module, other = Tied(), Tied()
    save_weights(module, tmp_path / "m.safetensors")
    assert sorted(load_file(tmp_path / "m.safetensors")) == ["counts", "inner.weight"]
    load_weights(other, tmp_path / "m.safetensors")
    assert other.head.weight is other.inner.weight
    assert torch.equal(other.head.weight, module.inner.weight)
    assert torch.equal(other.counts, module.counts)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bias": None}, "missing bias"),
        ({"extra": torch.zeros(1)}, "unexpected extra"),
        ({"weight": torch.zeros(2, 4)}, r"weight is \[2, 4\], expected \[2, 3\]"),
        ({"weight": None, "gain": torch.zeros(1)}, "missing weight; unexpected gain"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, words):
    path = tmp_path / "m.safetensors"
    module = nn.Linear(3, 2)
    before = module.weight.clone()
    tensors = {k: v for k, v in (dict(module.state_dict()) | change).items() if v is not None}
    save_file({name: value + 1 for name, value in tensors.items()}, path)
    with pytest.raises(UserError, match=rf"m\.safetensors does not fit.*{words}"):
        load_weights(module, path)
    assert torch.equal(module.weight, before), "nothing is loaded by halves"


def test_missing_and_damaged_files_are_named(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(UserError, match=r"m\.safetensors is missing; `dvc repro`"):
        load_weights(nn.Linear(3, 2), path)
    save_weights(nn.Linear(3, 2), path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"m\.safetensors is no readable safetensors file"):
        load_weights(nn.Linear(3, 2), path)


def test_a_config_of_other_sizes_is_refused(make_gpt, tmp_path):
    save_gpt(make_gpt(), "abc", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["gpt"]["n_layer"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"missing gpt\.model\.h\.2"):
        load_gpt(tmp_path, CPU)


def test_a_position_table_that_is_too_short_is_named(make_gpt, tmp_path):
    """As if the window of a trained model were made longer by hand."""
    changes = {"train.sequence": "sliding_window", "train.n_frames_before": 8}
    save_gpt(make_gpt(changes), "abc", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["gpt"]["n_frames_before"] = 40
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"wpe\.weight is \[1024, 16\], expected \[1312, 16\]"):
        load_gpt(tmp_path, CPU)


@pytest.mark.parametrize(
    "gpt", [None, {"layout": "clip"}, {"merge": 2}, {"n_layer": None}], ids=str
)
def test_a_transformer_of_another_version_is_one_sentence(make_gpt, tmp_path, gpt):
    """No sizes at all, keys that are unknown, and a key that is missing."""
    config = {"tokenizer": "abc"}
    if gpt is not None:
        config["gpt"] = {
            k: v for k, v in (make_gpt().config.to_dict() | gpt).items() if v is not None
        }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"^.*config\.json was written by .*run `dvc repro`$"):
        load_gpt(tmp_path, CPU)


def test_a_tokenizer_of_another_version_is_one_sentence(tiny, make_tokenizer, tmp_path):
    save_tokenizer(make_tokenizer(), tiny(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vqgan"]["autoencoder"]["old_key"] = 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"another version \(autoencoder.old_key: .*`dvc repro`$"):
        load_tokenizer(tmp_path, CPU)


def test_tokens_of_another_tokenizer_are_refused(tiny, make_tokenizer, tmp_path):
    one, other, tokens = (tmp_path / name for name in ("one", "other", "tokens"))
    save_tokenizer(make_tokenizer(0), tiny(), one)
    save_tokenizer(make_tokenizer(1), tiny(), other)
    assert fingerprint(one) != fingerprint(other)
    with pytest.raises(UserError, match=r"tokens of another tokenizer .*token_precompute"):
        require_own_tokens(tokens, one)
    tokens.mkdir()
    sign_tokens(tokens, one)
    require_own_tokens(tokens, one)
    with pytest.raises(UserError, match=r"tokens of another tokenizer .*token_precompute"):
        require_own_tokens(tokens, other)
