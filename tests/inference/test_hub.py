"""Models that travel: whole, by folder and by a stand-in of the hub, and without DVC and MLflow."""

import subprocess
import sys
from pathlib import Path

import huggingface_hub
import previous_settings
import pytest
import torch
from stand_in_hub import serve

from pipeline.errors import UserError
from pipeline.inference import hub
from pipeline.inference.inbetweener import InBetweener

ROOT = Path(__file__).parents[2]
CARD = "---\nlicense: mit\n---\n\n# A model\n"


@pytest.fixture
def models(tmp_path, saved_models) -> Path:
    return saved_models(tmp_path / "models")


@pytest.fixture
def exported(tmp_path, models) -> Path:
    hub.save_pretrained(hub.from_pretrained(models), tmp_path / "out", CARD)
    return tmp_path / "out"


@pytest.fixture
def online(tmp_path, monkeypatch):
    """A hub on this machine, somebody logged in, and an empty cache."""
    constants = huggingface_hub.constants
    with serve() as server:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def clip(model: InBetweener) -> torch.Tensor:
    size = (1, model.ingest.height, model.ingest.width, 3)
    ends = [torch.randint(256, size, generator=torch.Generator().manual_seed(k)) for k in (0, 1)]
    return model.generate(*(end.byte() for end in ends), [5])[0]


CONTEXTS = [None, {"vqgan.context": "none"}, previous_settings.settings()]


@pytest.mark.parametrize("context", CONTEXTS, ids=["keyframes", "none", "previous"])
def test_a_copy_is_the_same_files_and_draws_the_same(tmp_path, saved_models, context):
    models = saved_models(tmp_path / "models", context)
    model = hub.from_pretrained(models)
    hub.save_pretrained(model, tmp_path / "far" / "copy")
    copy = files(tmp_path / "far/copy")
    assert copy.keys() == {*hub.FILES}
    assert all(copy[name] == (models / name).read_bytes() for name in hub.NETWORKS)
    module, name = hub.read_json(tmp_path / "far/copy/model_index.json")["vqgan"]
    assert getattr(sys.modules[module], name) is type(model.tokenizer)
    assert torch.equal(clip(hub.from_pretrained(str(tmp_path / "far/copy"))), clip(model))


def test_an_earlier_export_is_replaced_and_other_files_stay(exported, tmp_path, saved_models):
    (exported / "notes.txt").write_text("mine")
    other = hub.from_pretrained(saved_models(tmp_path / "other", {"base.seed": 7}))
    before = files(exported)
    hub.save_pretrained(other, exported, "new card")
    after = files(exported)
    assert after["notes.txt"] == b"mine" and after["README.md"] == b"new card"
    assert after.keys() == before.keys()
    assert after["vqgan/model.safetensors"] == files(other.folder)["vqgan/model.safetensors"]
    hub.save_pretrained(other, exported)
    assert files(exported).keys() == before.keys() - {"README.md"}, "the card of another model"


@pytest.mark.parametrize("name", ["README.md", "vqgan/x", "gpt2/x", "model_index.json", ""])
def test_a_folder_with_files_of_others_is_refused_untouched(tmp_path, models, name):
    folder = tmp_path / "taken"
    path = folder / name if name else folder  # "": a file where the folder should be
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    model = hub.from_pretrained(models)
    with pytest.raises(UserError, match="expected a new folder"):
        hub.save_pretrained(model, folder)
    assert path.read_text() == "{}" and len([*tmp_path.rglob("*")]) == 8 + len(Path(name).parts)


def other_index(folder: Path) -> None:
    (folder / hub.INDEX).write_text('{"_class_name": "StableDiffusionPipeline"}')


def only_pickles(folder: Path) -> None:
    for part in hub.CLASSES:
        weights = folder / part / "model.safetensors"
        weights.rename(weights.with_name("pytorch_model.bin"))


def damaged(folder: Path) -> None:
    (folder / "gpt2/model.safetensors").write_bytes(b"not a safetensors file")


def mixed(folder: Path) -> None:
    """The tokenizer of one export, the transformer of another, as a killed copy may leave them."""
    weights = folder / "vqgan/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))


def edited(folder: Path) -> None:
    config = folder / "gpt2/config.json"
    config.write_text(config.read_text().replace('"n_head": 2', '"n_head": 4'))


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (None, {"name": "LICENSE"}, "LICENSE is a file; expected a folder"),
        (None, {"name": "a/b/c"}, "'a/b/c': expected a folder, or a name on the hub"),
        (None, {"name": "no folder"}, "'no folder': expected a folder, or a name on the hub"),
        (None, {"name": "docs"}, "docs lacks vqgan/config.json and vqgan/model.safetensors and"),
        (None, {"revision": "v2"}, "revision 'v2': only the hub has any"),
        (None, {"device": "gpu"}, "device 'gpu': expected cpu, cuda or cuda:N"),
        (None, {"device": "cuda:99"}, "PyTorch sees"),
        (None, {"precision": "fp16"}, "precision 'fp16': expected float32 or bf16"),
        (other_index, {}, "another program's model; expected _class_name InBetweener"),
        (only_pickles, {}, "lacks vqgan/model.safetensors and gpt2/model.safetensors"),
        (damaged, {}, "no readable safetensors file"),
        (mixed, {}, "another tokenizer"),
        (edited, {}, "gpt.n_head is 4, expected 2"),
    ],
)
def test_wrong_models_and_options_are_named(exported, monkeypatch, change, options, words):
    monkeypatch.chdir(ROOT)
    if change:
        change(exported)
    with pytest.raises(UserError, match=words):
        hub.from_pretrained(**({"name": exported} | options))


def test_a_model_goes_to_the_hub_and_comes_back(exported, online, models):
    (exported / "mine.txt").write_text("stays here")
    address = hub.push_to_hub(exported, "me/model")
    assert address.startswith(f"{online.address}/me/model/commit/")
    uploaded = files(exported)
    del uploaded["mine.txt"]
    assert online.repos["me/model"] == uploaded
    online.repos["me/model"]["evil.pkl"] = online.repos["me/model"]["vqgan/pytorch.bin"] = b"x"
    model = hub.from_pretrained("me/model")
    assert files(model.folder).keys() == {*hub.FILES}  # nothing else was downloaded
    assert torch.equal(clip(model), clip(hub.from_pretrained(models)))
    online.repos.clear()  # as without a network: the cache has it
    assert hub.from_pretrained("me/model").folder == model.folder


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda out: hub.from_pretrained("me/nothing"), "me/nothing is no folder here and.* 404"),
        (lambda out: hub.from_pretrained("me/model", revision="v9"), "404, Invalid rev id"),
        (lambda out: hub.push_to_hub(out, "model"), "'model': expected a name on the hub, USER/"),
        (lambda out: hub.push_to_hub(out, "a b/c"), "'a b/c': expected a name on the hub, USER/"),
        (lambda out: hub.push_to_hub(out / "vqgan", "me/model"), "vqgan lacks vqgan/config.json"),
    ],
)
def test_what_the_hub_has_not_is_one_sentence(exported, online, call, words):
    online.repos["me/model"] = files(exported)
    with pytest.raises(UserError, match=words):
        call(exported)


@pytest.mark.parametrize(
    ("token", "refusal", "missing", "words"),
    [
        ("hf_stand_in", '"license" must be one of', "", 'refuses its metadata ."license" must be'),
        (
            "hf_another",
            "",
            "",
            "me/model cannot be uploaded: the hub answers 401, Invalid username",
        ),
        (
            None,
            "",
            "",
            "me/model cannot be uploaded: nobody is logged in; expected `hf auth login`",
        ),
        ("hf_stand_in", "", "README.md", r"out lacks README\.md; `python -m pipeline export`"),
    ],
)
def test_what_the_hub_refuses_is_not_uploaded(
    exported, online, monkeypatch, token, refusal, missing, words
):
    online.refusal = refusal
    monkeypatch.setenv("HF_TOKEN", token or "")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "/nonexistent/token")
    if missing:
        (exported / missing).unlink()
    with pytest.raises(UserError, match=words):
        hub.push_to_hub(exported, "me/model")
    assert not online.repos


def test_without_a_network_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"me/m is no folder here and .*is there a network\?"):
        hub.from_pretrained("me/m")


DRAW = """
import importlib, pkgutil, sys
from importlib.machinery import PathFinder

class Present(PathFinder):
    @classmethod
    def find_spec(cls, name, *others):
        absent = name.partition(".")[0] in {absent}
        return None if absent else super().find_spec(name, *others)

sys.meta_path = [Present if finder is PathFinder else finder for finder in sys.meta_path]
import pipeline.inference
for module in pkgutil.iter_modules(pipeline.inference.__path__):
    importlib.import_module(f"pipeline.inference.{{module.name}}")
import numpy, torch
from pipeline.inference import hub, keyframes
from pipeline.inference.clip import Clip
from pipeline.models.gpt.sampling import GREEDY

images = {{0: numpy.zeros((30, 50, 3), numpy.uint8), 4: numpy.full((30, 50, 3), 200, numpy.uint8)}}
clip = Clip(hub.from_pretrained({models!r}), images, keyframes.segments(images), (30, 50))
frames = list(clip.frames(clip.token_ids(GREEDY, torch.Generator()), lambda drawn: None))
print([int(frame.mean()) for frame in (frames[0], frames[4])], len(frames))
"""


def test_a_machine_without_the_tools_of_training_draws(models):
    """With what requirements-inference.txt lists, at the same versions as the whole project."""
    lines = [
        {line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()} - {""}
        for name in ("requirements.txt", "requirements-inference.txt")
    ]
    assert lines[1] < lines[0]
    absent = {"dvc", "mlflow", "scenedetect", "ffmpeg", "imageio_ffmpeg", "torchvision", "cleanfid"}
    absent |= {"skimage", "sklearn", "matplotlib", "ray"}
    code = DRAW.format(absent=absent, models=str(models))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[0, 200] 5\n", done.stderr
