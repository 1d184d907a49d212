"""The model of a pipeline run in MLflow (a LoggedModel), with the data sets behind it.

`report` logs it into its row. MLflow gets a copy of both networks, of the code that draws with them
and of `commands/mlflow_model.py`, which MLflow runs to load the model: no pickle. So a registered
model works after the project went on. Networks of more than MAX_COPY bytes stay where DVC has them:
the model then has numbers and links as any other, and a tag for each folder says which one it is.
"""

import base64
import hashlib
import io as bytes_io
import json
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipeline import config, io

if TYPE_CHECKING:  # takes seconds to import
    from mlflow.entities import LoggedModel
    from mlflow.models import ModelSignature
    from mlflow.tracking import MlflowClient

NAME = "nakawari"
MAX_COPY = 100e6  # of networks; the default's have 6 MB, the thesis' GPT-2 medium 1.4 GB
WEIGHTS_TAG = "nakawari.weights"
CODE = Path(__file__).parents[1]
NOT_SERVED = ("__pycache__", "commands", "data", "evaluation", "sample", "training")
SHARDS = Path("data/shards")
CONTEXTS = {"train": "training", "val": "validation", "test": "testing"}


def signature(decoding: config.Decoding) -> "ModelSignature":
    """A row with two pictures, and options for all rows; a clip a row, and what was done to it."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    options = {"n_frames": 20, "on": 1, "ease": 0.0, "size": "input", "fps": 24.0, "format": "mp4"}
    options |= {"temperature": decoding.temperature, "seed": 0}
    kinds = {int: "long", float: "double", str: "string"}
    return ModelSignature(
        Schema([ColSpec("string", name) for name in ("first", "last")]),
        Schema([ColSpec("string", name) for name in ("clip", "notes")]),
        ParamSchema([ParamSpec(key, kinds[type(v)], v) for key, v in options.items()]),
    )


def log(
    client: "MlflowClient",
    experiment: str,
    run: str,
    settings: config.Params,
    folders: dict[str, Path],
    numbers: dict[str, float],
) -> "LoggedModel":
    """The model of `folders` (vqgan, gpt2), one for a run and weights, with numbers of its test."""
    from mlflow.entities import LoggedModelOutput, Metric

    tested = log_data(client, run, settings)["test"]
    weights = [folder / "model.safetensors" for folder in folders.values()]
    digest = hashlib.sha256(b"".join(bytes.fromhex(io.sha256(w)) for w in weights)).hexdigest()
    known = client.search_logged_models(
        [experiment], f"source_run_id = '{run}' AND tags.`{WEIGHTS_TAG}` = '{digest}'"
    )
    model = next((model for model in known if model.status == "READY"), None)
    if model is None:
        tags = {WEIGHTS_TAG: digest}
        copied = sum(path.stat().st_size for path in weights) <= MAX_COPY
        if not copied:
            tags["mlflow.model.isExternal"] = "true"
            tags |= {f"dvc.{folder}": dvc_hash(folder) for folder in folders.values()}
        params = {key: str(value)[:500] for key, value in io.flatten(settings.model_dump()).items()}
        model = client.create_logged_model(experiment, NAME, run, tags, params, "in-betweens")
        try:
            if copied:
                with TemporaryDirectory() as folder:
                    package = save(Path(folder), settings, folders, run, model.model_id)
                    client.log_model_artifacts(model.model_id, str(package))
        except BaseException:
            client.finalize_logged_model(model.model_id, "FAILED")
            raise
        model = client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(run, [LoggedModelOutput(model.model_id, step=0)])
    now = int(time.time() * 1000)
    link = {"model_id": model.model_id, "run_id": run}
    link |= {"dataset_name": tested.name, "dataset_digest": tested.digest}
    client.log_batch(run, [Metric(key, value, now, 0, **link) for key, value in numbers.items()])
    return model


def save(
    folder: Path, settings: config.Params, networks: dict[str, Path], run: str | None, model_id: str
) -> Path:
    """Writes the model as MLflow loads it, into a new folder in `folder`."""
    import mlflow
    from mlflow.models import Model

    code = shutil.copytree(CODE, folder / "pipeline", ignore=shutil.ignore_patterns(*NOT_SERVED))
    mlflow.pyfunc.save_model(
        folder / "model",
        python_model=str(CODE / "commands/mlflow_model.py"),
        mlflow_model=Model(run_id=run, model_id=model_id),
        artifacts={name: str(network) for name, network in networks.items()},
        code_paths=[str(code)],
        pip_requirements=str(CODE.parent / "requirements.txt"),
        model_config={
            "base": settings.base.model_dump(),
            "decoding": settings.evaluate.decoding.model_dump(),
        },
        signature=signature(settings.evaluate.decoding),
        input_example=example(),
    )
    return folder / "model"


def example() -> tuple:
    """A square that moves to the right, as a request of one row."""
    import pandas as pd
    from PIL import Image

    row = {}
    for name, left in (("first", 16), ("last", 80)):
        picture, png = Image.new("RGB", (128, 64), "skyblue"), bytes_io.BytesIO()
        picture.paste("crimson", (left, 16, left + 32, 48))
        picture.save(png, "png")
        row[name] = base64.b64encode(png.getvalue()).decode()
    return pd.DataFrame([row]), {"n_frames": 9}


def log_data(client: "MlflowClient", run: str, settings: config.Params) -> dict:
    """The data set of each split, an input of the run, under the hash that DVC has of them all."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    summary, digest, sets = io.read_json(SHARDS / "summary.json"), dvc_hash(SHARDS), {}
    source = json.dumps({"uri": str(SHARDS), "made_of": settings.source.path})
    for split, context in CONTEXTS.items():
        counts = json.dumps({kind: summary[f"{kind}_{split}"] for kind in ("clips", "images")})
        name = f"{settings.source.path}, {split}"
        sets[split] = Dataset(name, digest, "local", source, profile=counts)
        tags = [InputTag("mlflow.data.context", context)]
        client.log_inputs(run, [DatasetInput(sets[split], tags)])
    return sets


def dvc_hash(out: Path) -> str:
    """The hash by which DVC knows an output, as `dvc.lock` has it."""
    for stage in config.read_yaml(Path("dvc.lock"))["stages"].values():
        for item in stage.get("outs", []):
            if item["path"] == out.as_posix():
                return item["md5"]
    raise ValueError(f"dvc.lock knows no {out}")
