"""Nodes for ComfyUI (V3 interface): a trained model, and the frames between keyframes.

Pictures are ComfyUI's IMAGE, float32 `B H W C` in [0, 1]. The drawing is that of
`python -m pipeline generate`: pictures keep their size, and all get that of the first one.
"""

import logging
import re
import sys
from pathlib import Path

import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy_api.latest import ComfyExtension, io

# This folder is linked into custom_nodes, and the link leads into the repository.
REPOSITORY = Path(__file__).resolve().parents[2]
if not (REPOSITORY / "pipeline/inference/hub.py").is_file():
    raise ImportError(
        f"Nakawari: {REPOSITORY} is not its repository; link integrations/comfyui of a clone into "
        "custom_nodes instead of copying it"
    )
sys.path.append(str(REPOSITORY))  # at the end: nothing of ComfyUI is hidden

import pipeline  # noqa: E402

if not Path(pipeline.__file__).is_relative_to(REPOSITORY):
    raise ImportError(
        f"Nakawari: another package of the name pipeline was imported before, {pipeline.__file__}; "
        "disable the node package that it belongs to"
    )

from pipeline import config, frames  # noqa: E402
from pipeline.errors import UserError  # noqa: E402
from pipeline.inference import hub  # noqa: E402
from pipeline.inference.clip import Clip, check_memory, conversions, timed  # noqa: E402
from pipeline.inference.inbetweener import InBetweener  # noqa: E402
from pipeline.inference.keyframes import MIN_SIDE, frames_to_draw, segments  # noqa: E402
from pipeline.models.flow import MAX_EXPONENT  # noqa: E402

MODELS = "nakawari"  # the folder in ComfyUI's models/
MAX_FRAMES = 10_000
HELD_BYTES = 18  # of a pixel of a frame, at most: uint8 one by one, in one tensor, and as float32
DECODING = config.load(REPOSITORY / "params.yaml").evaluate.decoding
folder_paths.add_model_folder_path(MODELS, str(Path(folder_paths.models_dir) / MODELS))

Model = io.Custom("NAKAWARI_MODEL")
FRAMES = io.Image.Output(display_name="frames")
EASE = "timing: 0 as learnt, 1 even, more holds both ends longer"
HEAT = "0: always the same clip; about 1: another one with each seed"
TIMING = [
    io.Int.Input("on", default=1, min=1, max=24, tooltip="frames that each drawing is held"),
    io.Float.Input("ease", default=0.0, min=0.0, max=MAX_EXPONENT, step=0.1, tooltip=EASE),
    io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True),
    io.Float.Input("temperature", default=0.0, min=0.0, max=2.0, step=0.05, tooltip=HEAT),
]


def _schema(cls: type, name: str, description: str, inputs: list, output: object) -> io.Schema:
    about = {"node_id": cls.__name__, "display_name": name, "description": description}
    return io.Schema(**about, category="Nakawari", inputs=inputs, outputs=[output])


class NakawariLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [
            io.Combo.Input("folder", options=sorted(_folders()) or ["none there"]),
            io.Combo.Input("device", options=["cpu", "cuda"], default="cpu"),
        ]
        words = "A folder in models/nakawari that `python -m pipeline export` wrote."
        output = Model.Output(display_name="model")
        return _schema(cls, "Load Nakawari Model", words, inputs, output)

    @classmethod
    def execute(cls, folder: str, device: str) -> io.NodeOutput:
        if folder not in _folders():
            places = " or ".join(folder_paths.get_folder_paths(MODELS))
            raise UserError(f"no model {folder!r}; expected a folder with one in {places}")
        return io.NodeOutput(hub.from_pretrained(_folders()[folder], device))

    @classmethod
    def fingerprint_inputs(cls, folder: str, device: str) -> str:
        """Other files in the same folder are another model."""
        files = [_folders()[folder] / name for name in hub.NETWORKS] if folder in _folders() else []
        return str([path.stat().st_mtime_ns for path in files if path.is_file()])


class NakawariInbetween(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [
            Model.Input("model"),
            io.Image.Input("first"),
            io.Image.Input("last"),
            io.Int.Input("n_frames", default=20, min=3, max=MAX_FRAMES),
        ]
        words = "Draws the frames between two pictures; both are frames of the clip."
        return _schema(cls, "Nakawari In-Between", words, inputs + TIMING, FRAMES)

    @classmethod
    def execute(
        cls, model: InBetweener, first: torch.Tensor, last: torch.Tensor, n_frames: int, **timing
    ) -> io.NodeOutput:
        for name, image in (("first", first), ("last", last)):
            if len(image) != 1:
                raise UserError(
                    f"{name} holds {len(image)} pictures; expected one, or Nakawari Keyframes"
                )
        return io.NodeOutput(draw(model, {0: first[0], n_frames - 1: last[0]}, **timing))


class NakawariKeyframes(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [
            Model.Input("model"),
            io.Image.Input("keyframes", tooltip="a batch, in the order of the numbers"),
            io.String.Input("indices", default="0, 9, 19", tooltip="a number a keyframe"),
        ]
        words = "Draws the frames between several pictures with given frame numbers."
        return _schema(cls, "Nakawari Keyframes", words, inputs + TIMING, FRAMES)

    @classmethod
    def execute(
        cls, model: InBetweener, keyframes: torch.Tensor, indices: str, **timing
    ) -> io.NodeOutput:
        words = re.findall(r"[^\s,;]+", indices)
        numbers = [int(word) for word in words if re.fullmatch(r"[0-9]{1,9}", word)]
        rising = numbers == sorted({0, *numbers}) and numbers[-1] < MAX_FRAMES
        if len(numbers) != len(words) or not rising or not len(numbers) == len(keyframes) > 1:
            raise UserError(
                f"indices {indices!r} for {len(keyframes)} keyframes: expected a number for each, "
                f"at least two, rising from 0 and below {MAX_FRAMES}, such as 0, 9, 19"
            )
        return io.NodeOutput(draw(model, dict(zip(numbers, keyframes, strict=True)), **timing))


class Nakawari(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [NakawariLoader, NakawariInbetween, NakawariKeyframes]


async def comfy_entrypoint() -> Nakawari:
    return Nakawari()


def draw(
    model: InBetweener,
    images: dict[int, torch.Tensor],
    on: int,
    ease: float,
    seed: int,
    temperature: float,
) -> torch.Tensor:
    """Given pictures `H W C` by frame to the whole clip, `B H W 3`; the given ones are in it."""
    model = timed(model, ease)
    pictures = {frame: _pixels(image) for frame, image in images.items()}
    size = pictures[0].shape[:2]
    if min(size) < MIN_SIDE:
        least = f"{MIN_SIDE}x{MIN_SIDE}"
        raise UserError(f"first is {size[0]}x{size[1]} pixels; expected at least {least}")
    pictures = {frame: frames.canvas(image, *size, "crop") for frame, image in pictures.items()}
    clip, n_frames = Clip(model, pictures, segments(pictures, on), size), max(pictures) + 1
    check_memory(clip, HELD_BYTES * n_frames)
    for line in conversions(clip, pictures, on):
        logging.warning("Nakawari: %s", line)
    progress = comfy.utils.ProgressBar(frames_to_draw(clip.segments))  # where it is also cancelled
    decoding = DECODING.model_copy(update={"temperature": temperature})
    ids = clip.token_ids(decoding, torch.Generator().manual_seed(seed))
    images = [torch.from_numpy(image.copy()) for image in clip.frames(ids, progress.update)]
    return torch.stack(images).float().div_(255)


def _pixels(image: torch.Tensor) -> np.ndarray:
    """IMAGE `H W C` to uint8 `H W 3`; transparent parts on white, grey as three equal colours."""
    image = image.float().cpu().nan_to_num().clamp(0, 1)
    if image.shape[-1] == 4:
        image = image[..., :3] * image[..., 3:] + 1 - image[..., 3:]
    return image.expand(*image.shape[:2], 3).mul(255).round().byte().numpy()


def _folders() -> dict[str, Path]:
    """Folders with a model by name, of all places that ComfyUI knows."""
    places = [Path(place) for place in folder_paths.get_folder_paths(MODELS)]
    folders = [path for place in places if place.is_dir() for path in place.iterdir()]
    return {path.name: path for path in folders if (path / "vqgan/model.safetensors").is_file()}
