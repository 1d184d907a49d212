"""Finished models on disk: what is saved is loaded, and what does not fit is named."""

import json

import pytest
import torch
from pipeline.easing import EVEN, Easing
from pipeline.inbetween.drawing import InBetweener
from pipeline.trained.tokenizer import (
    fingerprint,
    load_tokenizer,
    require_own_tokens,
    save_tokenizer,
    sign_tokens,
)
from pipeline.trained.transformer import Trained, load_gpt, save_gpt
from pipeline.trained.weights import load_weights, save_weights
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.errors import UserError

CPU = torch.device("cpu")


class Tied(nn.Module):
    """Two layers with one weight, as GPT-2's embedding and head."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.inner.weight
        self.register_buffer("counts", torch.rand(4))


def test_the_tokenizer_comes_back(tiny, untrained, tmp_path):
    settings = tiny()
    tokenizer = untrained(settings).tokenizer
    save_tokenizer(tokenizer, settings, tmp_path)
    loaded, size = load_tokenizer(tmp_path, CPU)
    assert size == settings.ingest.frame_size and not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    images = torch.rand(2, 3, 16, 32)
    assert torch.equal(loaded.encode(images), tokenizer.encode(images))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("layout", ["clip", "windowed"])
@pytest.mark.parametrize("merge", [1, 2])
def test_the_transformer_comes_back(tiny, untrained, tmp_path, layout, merge):
    changes = {"train.layout": layout, "transformer.merge": merge, "transformer.copying": True}
    gpt = untrained(tiny(changes)).gpt
    save_gpt(Trained(gpt, "abc", Easing(1.3, 0.4)), tmp_path)
    loaded, *about = load_gpt(tmp_path, CPU)
    assert about == ["abc", Easing(1.3, 0.4)]
    assert loaded.config == gpt.config and not loaded.training
    frames, n = torch.randint(0, 16, (2, 2, 32)), torch.tensor([6, 7])
    assert torch.equal(loaded(frames, frames[:, 1], n), gpt(frames, frames[:, 1], n))


def test_same_weights_same_bytes(tiny, untrained, tmp_path):
    for name in "ab":
        save_gpt(Trained(untrained(tiny()).gpt, "abc", EVEN), tmp_path / name)
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


def test_a_config_of_other_sizes_is_refused(tiny, untrained, tmp_path):
    save_gpt(Trained(untrained(tiny()).gpt, "abc", EVEN), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["gpt"]["n_layer"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"missing gpt\.model\.h\.2"):
        load_gpt(tmp_path, CPU)


def test_a_position_table_that_is_too_short_is_named(tiny, untrained, tmp_path):
    """As if the window of a trained model were made longer by hand."""
    changes = {"train.layout": "windowed", "train.n_frames_before": 8}
    save_gpt(Trained(untrained(tiny(changes)).gpt, "abc", EVEN), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["gpt"]["n_frames_before"] = 40
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"wpe\.weight is \[1024, 16\], expected \[1312, 16\]"):
        load_gpt(tmp_path, CPU)


def test_a_config_of_another_version_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"layout": "clip"}')
    with pytest.raises(UserError, match=r"another version .*run `dvc repro gpt2_train`"):
        load_gpt(tmp_path, CPU)


def test_tokens_and_transformers_of_another_tokenizer_are_refused(tiny, untrained, tmp_path):
    settings = tiny()
    one, other, tokens, gpt = (tmp_path / name for name in ("one", "other", "tokens", "gpt"))
    model = untrained(settings)
    save_tokenizer(model.tokenizer, settings, one)
    save_gpt(Trained(model.gpt, fingerprint(one), Easing(0.7)), gpt)
    with pytest.raises(UserError, match=r"tokens of another tokenizer .*token_precompute"):
        require_own_tokens(tokens, one)
    tokens.mkdir()
    sign_tokens(tokens, one)
    require_own_tokens(tokens, one)
    assert InBetweener.load(one, gpt, CPU, "float32").easing == Easing(0.7)
    with torch.no_grad():
        model.tokenizer.shortcut.decode.bias.add_(0.1)
    save_tokenizer(model.tokenizer, settings, other)
    with pytest.raises(UserError, match=r"tokens of another tokenizer .*token_precompute"):
        require_own_tokens(tokens, other)
    with pytest.raises(UserError, match=r"was trained on the tokens of another tokenizer than"):
        InBetweener.load(other, gpt, CPU, "float32")
