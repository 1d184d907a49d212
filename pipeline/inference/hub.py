"""Trained models that travel: read from a folder or from the Hugging Face hub, copied, uploaded.

    model = hub.from_pretrained("somebody/nakawari-cartoon")        # or a folder

The folder is laid out as on the hub: model_index.json, and a sub-folder a network with config.json
and model.safetensors. `models/` of a run has these sub-folders already and is read as it is. No
pickle is ever read, nothing that a folder names is imported, and neither DVC, MLflow nor ffmpeg is
needed (requirements-inference.txt).

These are functions and no methods of InBetweener, because `evaluate` depends on its file.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, errors, get_token, snapshot_download
from huggingface_hub.utils import validate_repo_id

from pipeline import runtime
from pipeline.errors import UserError
from pipeline.inference.inbetweener import InBetweener
from pipeline.io import read_json, remove_stale, require_file, temporary, write_json
from pipeline.models.pretrained import weights

INDEX, CARD = "model_index.json", "README.md"
CLASSES = {  # sub-folder: module and class, as diffusers names them
    "vqgan": ["pipeline.models.vqgan.keyframes", "KeyframeTokenizer"],
    "gpt2": ["pipeline.models.gpt.model", "FrameGpt"],
}
NETWORKS = [f"{part}/{name}" for part in CLASSES for name in ("config.json", "model.safetensors")]
FILES = [INDEX, *NETWORKS]
LOGIN = "`hf auth login`, or the variable HF_TOKEN"


def from_pretrained(
    name: str | Path, device: str = "cpu", precision: str = "float32", revision: str | None = None
) -> InBetweener:
    """The model in a folder, or of that name on the hub, ready to draw.

    device: cpu, cuda or cuda:N; precision: float32 or bf16; revision: branch, tag or commit on the
    hub. What was downloaded once is found again without a network. The model's `folder` says where
    it was read. UserError where something is missing, damaged or of another kind.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", str(device)):
        raise UserError(f"device {str(device)!r}: expected cpu, cuda or cuda:N")
    if precision not in ("float32", "bf16"):
        raise UserError(f"precision {precision!r}: expected float32 or bf16")
    place, folder = runtime.find_device(str(device)), Path(name).expanduser()
    if folder.is_file():
        raise UserError(f"{name} is a file; expected a folder, or the name of a model on the hub")
    if folder.is_dir() and revision:
        raise UserError(f"revision {revision!r}: only the hub has any, and {name} is a folder here")
    if not folder.is_dir():
        if not is_name(str(name)):
            raise UserError(f"{str(name)!r}: expected a folder, or a name on the hub, USER/MODEL")
        with _one_sentence(f"{name} is no folder here and cannot be downloaded"):
            folder = Path(snapshot_download(str(name), revision=revision, allow_patterns=FILES))
    require_networks(folder)
    model = InBetweener.load(folder / "vqgan", folder / "gpt2", place, precision)
    if model.has_context and model.flow_method != "dis":
        weights.find(weights.RIFE)  # said now, and not at the first picture
    model.folder = folder
    return model


def require_networks(folder: Path) -> None:
    """UserError where a folder holds no model, or one of another program."""
    if (folder / INDEX).exists() and not _is_own(folder):
        raise UserError(
            f"{folder / INDEX} is of another program's model; expected _class_name InBetweener, as "
            "`python -m pipeline export` writes it"
        )
    missing = [name for name in NETWORKS if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} lacks {' and '.join(missing)}; expected models/ of a finished run, or a "
            "folder that `python -m pipeline export` wrote"
        )


def save_pretrained(model: InBetweener, folder: str | Path, card: str = "") -> None:
    """Writes the files that `model` was read from, byte for byte, an index, and the card.

    An earlier export in `folder` is replaced, other files there stay. What was set on the loaded
    model, as a fixed easing, is not saved.
    """
    if not hasattr(model, "folder"):
        raise UserError("this model is of no folder; expected one that from_pretrained read")
    folder, names = Path(folder), [*FILES, CARD] if card else FILES
    require_place(folder)
    remove_stale(folder)
    with temporary(folder, Path.mkdir) as partial:
        for name in NETWORKS:
            require_file(model.folder / name)
            (partial / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(model.folder / name, partial / name)
        vqgan = type(model.tokenizer)
        classes = CLASSES | {"vqgan": [vqgan.__module__, vqgan.__name__]}
        index = {"_class_name": "InBetweener", "_nakawari_version": 1}
        write_json(partial / INDEX, index | classes)
        (partial / CARD).write_text(card, "utf-8")
        # The index first: with it a next export may replace the folder. The transformer knows its
        # tokenizer's hash, so a mixture of two exports is never drawn with.
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (partial / name).replace(folder / name)
        if not card:  # an earlier one is not of this model
            (folder / CARD).unlink(missing_ok=True)


def require_place(folder: Path) -> None:
    """UserError where an export to `folder` would cost files of another kind."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"{existing} is a file; expected a new folder")
    other = [name for name in (INDEX, CARD, *CLASSES) if (folder / name).exists()]
    if other and not _is_own(folder):
        raise UserError(
            f"{folder} holds {other[0]}, which is not of an earlier export; expected a new folder"
        )


def push_to_hub(folder: str | Path, name: str, private: bool = False) -> str:
    """Uploads an exported folder as the model `name` in one commit; gives the commit's address.

    The hub checks the card's metadata first; what it refuses is a UserError, and nothing is
    uploaded. Only the files of the model travel, whatever else lies in the folder.
    """
    folder, api = Path(folder), HfApi(library_name="nakawari")
    require_networks(folder)
    require_login(name)
    for file in (INDEX, CARD):
        if not (folder / file).is_file():
            raise UserError(f"{folder} lacks {file}; `python -m pipeline export` writes it")
    with _one_sentence(f"{name} cannot be uploaded"):
        try:
            ModelCard.load(folder / CARD).validate()
        except ValueError as error:  # in the hub's words
            words = " ".join(str(error).split())
            raise UserError(f"{folder / CARD}: the hub refuses its metadata ({words})") from None
        api.create_repo(name, private=private, exist_ok=True)
        message = "Upload a model of Nakawari"
        commit = api.upload_folder(
            repo_id=name, folder_path=folder, allow_patterns=[*FILES, CARD], commit_message=message
        )
    return str(commit.commit_url)


def require_login(name: str) -> None:
    """UserError where nothing could be uploaded under that name."""
    if not is_name(name) or "/" not in name:
        raise UserError(f"{name!r}: expected a name on the hub, USER/MODEL")
    if not get_token():
        raise UserError(f"{name} cannot be uploaded: nobody is logged in; expected {LOGIN}")


def is_name(name: str) -> bool:
    """Whether something on the hub can have that name."""
    try:
        validate_repo_id(name)
    except errors.HFValidationError:
        return False
    return True


def _is_own(folder: Path) -> bool:
    index = folder / INDEX
    return index.is_file() and read_json(index).get("_class_name") == "InBetweener"


@contextmanager
def _one_sentence(what: str) -> Iterator[None]:
    """Errors of the hub and of the network as a UserError that begins with `what`."""
    try:
        yield
    except errors.HfHubHTTPError as error:  # what is private looks as if it were not there
        words = (error.server_message or "no more than that").partition("\n")[0]
        raise UserError(
            f"{what}: the hub answers {error.response.status_code}, {words}; check name and "
            f"revision, and who is logged in ({LOGIN})"
        ) from None
    except (errors.HTTPError, errors.EntryNotFoundError, OSError) as error:
        words = str(error).partition("\n")[0].removeprefix("Got: ")
        raise UserError(f"{what} ({words}); is there a network?") from None
