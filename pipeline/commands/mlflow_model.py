"""The model as MLflow serves it: pictures as base64 text in, a clip as base64 text out.

    mlflow models serve -m models:/nakawari@champion -p 5000 --env-manager local

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
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR

MIN_SIDE = 16
RANGES = {"n_frames": (3, 1000), "on": (1, 1000), "ease": (1, 16), "temperature": (0, 100)}
RANGES |= {"fps": (0.1, 240), "seed": (-(2**62), 2**62)}


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
        self.easing, self.lock = self.model.easing, threading.Lock()
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
                sentence = re.sub(r"--out .*?clip\.\w+", "the clip", str(error)).replace("--", "")
                raise Refused(place + sentence, BAD_REQUEST) from None
            except Exception:
                traceback.print_exc(file=sys.stderr)
                sentence = "the clip was not drawn; the server's log says why"
                raise Refused(sentence, INTERNAL_ERROR) from None
            rows.append({"clip": base64.b64encode(clip).decode(), "notes": "; ".join(notes)})
        return pd.DataFrame(rows, columns=["clip", "notes"])

    def draw(self, folder: Path, row: dict, params: dict) -> tuple[bytes, list[str]]:
        """The bytes of a clip, and a line for each thing that its owner may not expect."""
        import torch

        from pipeline import frames
        from pipeline.inference.clip import Clip, check_memory, conversions, output_size
        from pipeline.inference.keyframes import segments
        from pipeline.models.flow import Easing
        from pipeline.video import clip_writer
        from pipeline.video.pictures import FITTED, size_text

        check(params, self.model.has_context)
        n_frames, on, ease = params["n_frames"], params["on"], params["ease"]
        first, notes = read(folder, "first", row["first"])
        last, more = read(folder, "last", row["last"])
        notes += more
        if last.shape != first.shape:
            notes.append(f"last ({size_text(last)}): scaled to {size_text(first)}, {FITTED}")
        images = {0: first, n_frames - 1: frames.canvas(last, *first.shape[:2], "crop")}
        self.model.easing = Easing.fixed(ease) if ease else self.easing
        size = output_size(params["size"], first.shape[:2], self.model.ingest)
        clip = Clip(self.model, images, segments(images, on), size)
        out = folder / f"clip.{params['format']}"
        shown = [clip.shown(image) for image in clip.large.values()]
        clip_writer.check_content(out, shown, n_frames, 1, params["fps"])
        check_memory(clip, n_frames if out.suffix == ".gif" else 0)
        decoding = self.decoding.model_copy(update={"temperature": params["temperature"]})
        generator = torch.Generator().manual_seed(params["seed"])
        drawn = clip.frames(clip.token_ids(decoding, generator), lambda n: None)
        clip_writer.write_clip(drawn, n_frames, out, params["fps"])
        return out.read_bytes(), notes + conversions(clip, images, on)


def check(params: dict, has_context: bool) -> None:
    """UserError for an option out of range, or one that this model does not know."""
    from pipeline.errors import UserError

    for name, value in params.items():
        if value is None:
            raise UserError(f"{name} is null: expected a value; leave it out for the usual one")
    given = params if params["ease"] else {**params, "ease": 1}  # 0 takes what was learnt
    for name, (low, high) in RANGES.items():
        if not low <= given[name] <= high:  # NaN is never in range
            raise UserError(f"{name} {given[name]}: expected {low} to {high}")
    if params["ease"] and not has_context:
        raise UserError(f"ease {given['ease']}: expected 0, as this model warps no keyframes")
    if given["format"] not in ("mp4", "gif"):
        raise UserError(f"format {given['format'][:30]!r}: expected mp4 or gif")


def read(folder: Path, name: str, text: str) -> tuple[np.ndarray, list[str]]:
    """uint8 `H W 3` of a picture in base64, also of a data: address; what was done to it."""
    from pipeline.errors import UserError
    from pipeline.video.folder import Unreadable
    from pipeline.video.pictures import EXPECTED, read_picture, size_text

    try:
        text = re.sub("^data:[^,]*,", "", text)
        content = base64.b64decode("".join(text.split()), validate=True)
    except (TypeError, ValueError) as error:  # also null, a number or a list
        raise UserError(
            f"{name} is no base64 ({error}); expected the text that `base64 -w0 {name}.png` prints"
        ) from None
    path = folder / name
    path.write_bytes(content)
    try:
        picture = read_picture(path)
    except Unreadable as error:
        reason = error.reason.removeprefix("cannot be read: ")
        raise UserError(f"{name} cannot be read: {reason}; {EXPECTED}, as base64") from None
    if min(picture.pixels.shape[:2]) < MIN_SIDE:
        size = size_text(picture.pixels)
        raise UserError(f"{name} is {size} pixels; expected at least {MIN_SIDE}x{MIN_SIDE}")
    return picture.pixels, [f"{name}: {note}" for note in picture.notes]


mlflow.models.set_model(Nakawari())
