"""Published GPT-2 weights: taken over as they are, tables grown, and what does not fit is said.

No pretrained GPT-2 can be had in a test: a small random one of the same form stands in for it.
"""

import pytest
import torch
from tiny_settings import GRID

from pipeline.errors import UserError
from pipeline.models.gpt.backbone import _published, load_pretrained
from pipeline.models.gpt.model import Conditioning, FrameGpt, GptConfig


@pytest.fixture(scope="module")
def published(tmp_path_factory, published_gpt2):
    """A model and its folder: some rows of positions, some tokens."""

    def make(rows: int, vocabulary: int) -> tuple:
        folder = published_gpt2(tmp_path_factory.mktemp("gpt2"), vocabulary, rows)
        return _published(str(folder)).eval(), folder

    return make


def fresh(tiny, **changes) -> FrameGpt:
    plain = {"transformer.remaining_frames_method": "none"}
    torch.manual_seed(0)
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return FrameGpt(GptConfig.from_params(tiny(plain | dotted), GRID)).eval()


def test_a_sliding_window_gives_what_the_published_one_gives(tiny, published):
    theirs, folder = published(rows=1024, vocabulary=16)
    model = fresh(tiny, train__sequence="sliding_window")
    assert not load_pretrained(model.gpt, str(folder)), "16 codes, 16 rows: all is taken"
    ids = torch.randint(0, 16, (1, 3, 32), generator=torch.Generator().manual_seed(0))
    cond = Conditioning(ids[:, 0], torch.tensor([6]))
    with torch.no_grad():
        logits = model(ids[:, 1:], cond)[0, 0]  # N V
        hidden = theirs(ids.flatten(1)).last_hidden_state[0, -32:]
    assert torch.allclose(logits, hidden @ theirs.wte.weight.T, atol=1e-5)


@pytest.mark.parametrize("rows", [40, 1024])
def test_a_table_that_is_too_short_grows_and_keeps_its_rows(tiny, published, rows):
    theirs, folder = published(rows=rows, vocabulary=50)
    before = 40  # (40 + 1) * 32 positions
    model = fresh(tiny, train__sequence="sliding_window", train__n_frames_before=before)
    started = model.gpt.wte.weight.clone()
    assert "table of 50 tokens is left out" in load_pretrained(model.gpt, str(folder))
    table = model.gpt.model.wpe.weight
    assert len(table) == 41 * 32 and torch.equal(table[:rows], theirs.wpe.weight)
    theirs_deviation = theirs.wpe.weight.std().item()
    assert table[rows:].std().item() == pytest.approx(theirs_deviation, rel=0.1)
    assert torch.equal(model.gpt.wte.weight, started)
    frames = torch.randint(0, 16, (1, before, 32))
    with torch.no_grad():
        assert model(frames, Conditioning(frames[:, 0], torch.tensor([60]))).isfinite().all()


def test_a_full_clip_takes_the_blocks_and_the_mean_position(tiny, published):
    theirs, folder = published(rows=1024, vocabulary=50)
    model = fresh(tiny)
    load_pretrained(model.gpt, str(folder))
    for ours, their in zip(model.gpt.model.h.parameters(), theirs.h.parameters(), strict=True):
        assert torch.equal(ours, their)
    mean = theirs.wpe.weight.mean(0, keepdim=True)
    assert torch.allclose(model.gpt.model.wpe.weight, mean), "row 0 is an outlier in GPT-2"


def test_other_sizes_are_named(tiny, published):
    _, folder = published(rows=64, vocabulary=16)
    model = fresh(tiny, transformer__n_layer=3)
    with pytest.raises(UserError, match="its n_layer is 2 and the transformer's 3; choose"):
        load_pretrained(model.gpt, str(folder))


@pytest.mark.parametrize("kind", ["missing", "empty", "damaged", "pickle"])
def test_a_folder_that_holds_no_model_is_named(tiny, published, tmp_path, kind):
    folder = tmp_path / "weights"
    if kind == "empty":
        folder.mkdir()
    if kind in ("damaged", "pickle"):
        _, folder = published(rows=64, vocabulary=16)
        (folder / "model.safetensors").write_bytes(b"nothing")
    if kind == "pickle":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    words = (
        "no such folder|no config.json and no model.safetensors|no model.safeten|cannot be loaded"
    )
    with pytest.raises(UserError, match=f"transformer.pretrained = .*({words})"):
        load_pretrained(fresh(tiny).gpt, str(folder))
