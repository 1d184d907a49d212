"""Finished models on disk: what is saved is loaded, and what does not fit is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_settings import GRID

from pipeline.errors import UserError
from pipeline.frames import to_float
from pipeline.inference.inbetweener import InBetweener
from pipeline.models.checkpoints import (
    load_tokenizer,
    require_own_tokens,
    save_tokenizer,
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


def test_the_tokenizer_without_context_comes_back(tiny, make_tokenizer, tmp_path):
    settings, tokenizer = tiny({"vqgan.context": "none"}), make_tokenizer(context="none")
    save_tokenizer(tokenizer, settings, tmp_path)
    loaded, ingest, *_ = load_tokenizer(tmp_path, CPU)
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
    loaded, ingest, method, easing, _ = load_tokenizer(tmp_path, CPU)
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


@pytest.fixture(scope="module")
def two_runs(tiny, untrained, tmp_path_factory) -> Path:
    """Folders `one` and `other` with the models vqgan and gpt2 of runs that differ in the seed."""
    root = tmp_path_factory.mktemp("runs")
    for name, seed in (("one", 1), ("other", 2)):
        settings = tiny({"base.seed": seed})
        model = untrained(settings)
        save_tokenizer(model.tokenizer, settings, root / name / "vqgan", Easing(0.5))
        sha256 = load_tokenizer(root / name / "vqgan", CPU).sha256
        save_gpt(model.gpt, sha256, root / name / "gpt2")
    return root


def value(dotted: str, new: object) -> Callable[[Path], None]:
    """Writes another value into a config.json, or takes the key away."""

    def edit(path: Path) -> None:
        content = place = json.loads(path.read_text())
        *sections, key = dotted.split(".")
        for section in sections:
            place = place[section]
        place[key] = new
        if new is None:
            del place[key]
        path.write_text(json.dumps(content))

    return edit


def text(change: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda path: path.write_text(change(path.read_text()))


def tensors(change: Callable[[dict], dict], signed: bool = True) -> Callable[[Path], None]:
    """Other weights; signed: with the config in their header, as if they had been trained so."""

    def edit(path: Path) -> None:
        header = {"config": path.with_name("config.json").read_text()} if signed else None
        changed = {name: x for name, x in change(load_file(path)).items() if x is not None}
        save_file(changed, path, header)

    return edit


def content(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data)


def replaced_by_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def replaced_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def of_other(what: str) -> Callable[[Path], None]:
    """The file, or the folder, of the other run or model."""

    def edit(path: Path) -> None:
        source = path.parent.parent.parent / what
        if source.is_dir():
            shutil.copytree(source, path.parent, dirs_exist_ok=True)
        else:
            shutil.copy(source, path)

    return edit


VQGAN, GPT2 = "vqgan/config.json", "gpt2/config.json"
WEIGHTS = "gpt2/model.safetensors"
BIAS = "output_bias"


def trained_with(dotted: str, new: object) -> Callable[[Path], None]:
    """Another value in config.json and in the header of the weights."""

    def edit(path: Path) -> None:
        value(dotted, new)(path)
        tensors(lambda t: t)(path.with_name("model.safetensors"))

    return edit


FAULTS = [
    (VQGAN, value("ingest.height", 32), r"ingest\.height is 32, expected 16, with which"),
    (VQGAN, value("ingest.height", 10**9), r"ingest\.height is 1000000000, expected 16"),
    (VQGAN, value("ingest.fit", "pad"), r'ingest\.fit is "pad", expected "squeeze"'),
    (VQGAN, value("ingest.width", "32"), r'ingest\.width is "32", expected 32'),
    (VQGAN, value("ingest", {}), r"ingest\.fit is absent, expected"),
    (VQGAN, value("flow.easing.pace", None), r"flow\.easing\.pace is absent, expected 0\.5"),
    (VQGAN, value("flow.method", "rife"), r'flow\.method is "rife", expected "dis"'),
    (VQGAN, value("vqgan.vqvae.num_embeddings", 2**40), r"num_embeddings is 1099511627776, exp"),
    (VQGAN, value("vqgan.autoencoder.old_key", 1), r"old_key is 1, expected absent"),
    (VQGAN, value("extra", [1]), r"extra is \[1\], expected absent"),
    (VQGAN, text(lambda t: t[:-30]), "is no readable JSON"),
    (VQGAN, text(lambda t: "null"), "holds NoneType, expected keys"),
    (VQGAN, text(lambda t: "[" * 10**5), "is no readable JSON"),
    (VQGAN, content(b""), "is no readable JSON"),
    (VQGAN, content(b'{"vqgan": "\xff"}'), "is no readable JSON"),
    (VQGAN, Path.unlink, "is missing"),
    (VQGAN, replaced_by_link, "is a link to no file"),
    (VQGAN, replaced_by_folder, "is a folder, expected a file"),
    (VQGAN, of_other("one/gpt2"), r"is not of a tokenizer of this version \(no key 'vqgan'\)"),
    (VQGAN, of_other("one/gpt2/config.json"), r"flow\.easing\.\w+ is absent, expected"),
    (GPT2, of_other("one/vqgan"), r"is not of a transformer of this version \(no key 'gpt'\)"),
    (GPT2, of_other("other/gpt2"), "was trained on the tokens of another tokenizer"),
    (GPT2, value("gpt.n_head", 1), r"gpt\.n_head is 1, expected 2"),
    (GPT2, value("gpt.n_frames_before", 2.0), r"gpt\.n_frames_before is 2\.0, expected 2, with"),
    (GPT2, value("gpt.grid", [1, 32]), r"gpt\.grid is \[1, 32\], expected \[4, 8\]"),
    (GPT2, value("tokenizer", "abc"), r'tokenizer is "abc", expected'),
    (GPT2, value("gpt", []), r"gpt is \[\], expected absent"),
    (VQGAN, trained_with("flow.method", "x"), r"of this version \(method: Input should be 'dis'"),
    (VQGAN, trained_with("flow.easing", {"pace": "x"}), r"\(pace: Input should be a valid number"),
    (VQGAN, trained_with("flow.easing", [{}, 1]), r"\(0: Input should be a valid number"),
    (VQGAN, trained_with("flow", 5), "is not of a tokenizer of this version"),
    (GPT2, trained_with("gpt", [1]), "is not of a transformer of this version"),
    (GPT2, trained_with("gpt.mode", "x"), r"\(mode: Input should be 'parallel' or 'maskgit'"),
    (GPT2, trained_with("gpt.n_layer", "2"), r"\(n_layer: Input should be a valid integer"),
    (GPT2, trained_with("gpt.n_layer", 10**9), r"\(n_layer: Input should be less than"),
    (GPT2, trained_with("gpt.n_head", 0), r"\(n_head: Input should be greater than or equal to 1"),
    (GPT2, trained_with("gpt.n_head", 3), r"\(n_embd = 16 is no multiple of n_head = 3"),
    (GPT2, trained_with("gpt.n_frames_before", "x"), r"\(n_frames_before: Input should be a valid"),
    (GPT2, trained_with("gpt.grid", [4]), r"\(grid.1: Field required"),
    (GPT2, trained_with("gpt.dropout", 5), r"\(dropout: Input should be less than 1"),
    (GPT2, trained_with("gpt.old_key", 5), r"\(old_key: Unexpected keyword argument"),
    (WEIGHTS, tensors(lambda t: t | {BIAS: None}), "missing output_bias"),
    (WEIGHTS, tensors(lambda t: t | {"extra": torch.zeros(1)}), "unexpected extra"),
    (WEIGHTS, tensors(lambda t: t | {BIAS: torch.zeros(2, 8)}), r"bias is \[2, 8\], expected \[16"),
    (
        WEIGHTS,
        tensors(lambda t: t | {BIAS: t[BIAS].half()}),
        "torch.float16, expected torch.float32",
    ),
    (WEIGHTS, tensors(lambda t: t | {BIAS: t[BIAS] * torch.nan}), "output_bias holds NaN or inf"),
    (WEIGHTS, tensors(lambda t: t, signed=False), "was written by an older version"),
    (
        WEIGHTS,
        lambda path: path.write_bytes(path.read_bytes()[:-5]),
        "no readable safetensors file",
    ),
    (WEIGHTS, content(b"\xff" * 7 + b"\x7f{}"), "is no readable safetensors file"),
    (WEIGHTS, content(b""), "is no readable safetensors file"),
    (WEIGHTS, Path.unlink, "is missing"),
    (WEIGHTS, replaced_by_link, "is a link to no file"),
    (WEIGHTS, replaced_by_folder, "is a folder, expected a file"),
]


@pytest.mark.parametrize(("file", "edit", "words"), FAULTS)
def test_what_does_not_fit_is_one_sentence(two_runs, tmp_path, file, edit, words):
    """The file's name, what is wrong, what was expected, and the remedy."""
    shutil.copytree(two_runs, tmp_path / "runs")
    run = tmp_path / "runs/one"
    edit(run / file)
    folder = rf"{run.name}/{Path(file).parent}"
    with pytest.raises(UserError, match=rf"(?s)^\S*{folder}.*{words}.*`dvc repro`[^\n]*$") as error:
        InBetweener.load(run / "vqgan", run / "gpt2", CPU, "float32")
    assert "\n" not in str(error.value)


def test_tokens_of_another_tokenizer_are_refused(two_runs, tmp_path):
    one, other = (load_tokenizer(two_runs / name / "vqgan", CPU) for name in ("one", "other"))
    for tokens in (tmp_path / "unsigned", tmp_path):
        with pytest.raises(UserError, match=r"the tokens of another one; .*token_precompute"):
            require_own_tokens(tokens, other)
        sign_tokens(tmp_path, one)
    require_own_tokens(tmp_path, one)
