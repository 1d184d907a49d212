"""The model as MLflow serves it: pictures as base64 text in, a clip as base64 text out.

    mlflow models serve -m models:/nakawari@champion -p 5001 --env-manager local

MLflow runs its own copy of this file ("models from code"), beside copies of the networks and of
pipeline/. `tracking/logged_model.py` writes all three, and says which columns and options there
are.

Imports stand in functions: MLflow also runs the file when the model is logged, where no network is
needed.
"""

import base64
import logging
import os
import re
import sys
import threading
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR

RANGES = {"n_frames": (3, 1000), "on": (1, 1000), "temperature": (0, 100), "fps": (0.1, 240)}
RANGES |= {"seed": (-(2**62), 2**62)}


class Refused(MlflowException):
    """A sentence for who asked. MLflow would write the whole request in front of it."""

    def __setattr__(self, name: str, value: object) -> None:
        if name != "message" or not hasattr(self, "message"):
            super().__setattr__(name, value)


def refuse_unknown(record: logging.LogRecord) -> bool:
    """MLflow leaves out what it does not know, and only its log says so: here it is an error."""
    text = record.getMessage()
    unknown = re.match(r"Unrecognized params \[(.*?)\]|Found extra inputs .*?\[(.*?)\]", text)
    if unknown and os.environ.get("_MLFLOW_IS_IN_SERVING_ENVIRONMENT"):
        raise Refused(
            f"unknown: {unknown[1] or unknown[2]}; expected columns first and last, and as params "
            "n_frames, on, ease, size, temperature, seed, fps or format",
            BAD_REQUEST,
        )
    return True


class Nakawari(mlflow.pyfunc.PythonModel):
    def load_context(self, context) -> None:
        import torch

        from pipeline import config, runtime
        from pipeline.inference.inbetweener import InBetweener

        base = config.Base.model_validate(context.model_config["base"])
        if base.device != "cpu" and not torch.cuda.is_available():
            print(f"no {base.device} on this machine: draws on the CPU", file=sys.stderr)
            base = base.model_copy(update={"device": "cpu"})
        self.decoding = config.Decoding.model_validate(context.model_config["decoding"])
        folders = [Path(context.artifacts[name]) for name in ("vqgan", "gpt2")]
        self.model = InBetweener.load(*folders, runtime.prepare(base), base.precision)
        self.lock = threading.Lock()
        checks = logging.getLogger("mlflow.models.utils")
        checks.setLevel(logging.WARNING)  # whatever MLFLOW_LOGGING_LEVEL says
        checks.addFilter(refuse_unknown)

    def predict(self, context, model_input: pd.DataFrame, params: dict | None = None):
        """A row with the columns clip (base64) and notes for each row of first and last."""
        from pipeline.errors import UserError

        rows = []
        for number, row in enumerate(model_input.to_dict("records")):
            try:
                with TemporaryDirectory() as folder, self.lock:
                    clip, notes = self.draw(Path(folder), row, params)
            except UserError as error:
                place = f"row {number}: " if len(model_input) > 1 else ""
                sentence = place + str(error).replace(f"{folder}/", "")
                raise Refused(sentence, BAD_REQUEST) from None
            except Exception:
                traceback.print_exc(file=sys.stderr)
                sentence = "the clip was not drawn; the server's log says why"
                raise Refused(sentence, INTERNAL_ERROR) from None
            rows.append({"clip": base64.b64encode(clip).decode(), "notes": "; ".join(notes)})
        return pd.DataFrame(rows, columns=["clip", "notes"])

    def draw(self, folder: Path, row: dict, params: dict) -> tuple[bytes, list[str]]:
        """The bytes of a clip, and a line for each thing that its owner may not expect."""
        import torch

        from pipeline.inference.clip import Clip, check_memory, conversions, output_size, timed
        from pipeline.inference.keyframes import read_pictures, segments
        from pipeline.video import clip_writer

        check(params)
        n_frames, on, notes = params["n_frames"], params["on"], []
        given = {0: store(folder, "first", row["first"])}
        given[n_frames - 1] = store(folder, "last", row["last"])
        images = read_pictures(given, lambda note: notes.append(note.replace(f"{folder}/", "")))
        size = output_size(params["size"], images[0].shape[:2], self.model.ingest)
        clip = Clip(timed(self.model, params["ease"]), images, segments(images, on), size)
        out = folder / f"clip.{params['format']}"
        shown = [clip.shown(image) for image in clip.large.values()]
        notes += clip_writer.check_content(out, shown, n_frames, 1, params["fps"])
        check_memory(clip, n_frames * clip_writer.HELD.get(out.suffix, 0))
        decoding = self.decoding.model_copy(update={"temperature": params["temperature"]})
        generator = torch.Generator().manual_seed(params["seed"])
        frames = clip.frames(clip.token_ids(decoding, generator), lambda n: None)
        clip_writer.write_clip(frames, n_frames, out, params["fps"])
        return out.read_bytes(), notes + conversions(clip, images, on)


def check(params: dict) -> None:
    """UserError for an option out of range."""
    from pipeline.errors import UserError

    for name, value in params.items():
        if value is None:
            raise UserError(f"{name} is null: expected a value; leave it out for the usual one")
    for name, (low, high) in RANGES.items():
        if not low <= params[name] <= high:  # NaN is never in range
            raise UserError(f"{name} {params[name]}: expected {low} to {high}")
    if params["format"] not in ("mp4", "gif"):
        raise UserError(f"format {params['format'][:30]!r}: expected mp4 or gif")


def store(folder: Path, name: str, text: str) -> Path:
    """Writes a picture in base64, also of a data: address, to a file."""
    from pipeline.errors import UserError

    try:
        text = re.sub("^data:[^,]*,", "", text)
        content = base64.b64decode("".join(text.split()), validate=True)
    except (TypeError, ValueError) as error:  # also null, a number or a list
        raise UserError(
            f"{name} is no base64 ({error}); expected the text that `base64 -w0 {name}.png` prints"
        ) from None
    path = folder / name
    path.write_bytes(content)
    return path


mlflow.models.set_model(Nakawari())
