"""What people look at: strips, small videos, and the page of the run.

The page is made of what the evaluation found, and of the training curves beside the models.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pipeline import io
from pipeline.config import Params
from pipeline.evaluation.baselines import cross_fade
from pipeline.evaluation.methods import Drawn
from pipeline.evaluation.report import tables, visualize
from pipeline.evaluation.report.page import Clip, Page, Picture, write_page
from pipeline.evaluation.statistics.summary import MODEL, spoken
from pipeline.evaluation.warnings import Notes
from pipeline.video.writer import write_video

PAIRS = 5  # pictures shown beside their reconstructions
VIDEO_HEIGHT = 192  # of the small videos
SHOWN_FPS = 24  # speed at which they play, whatever the source's
# On the page, and so among the parameters of the stage; not the source, which may be a path.
SECTIONS = ("base", "ingest", "scene_split", "frame_subsample", "clip_chunk", "flow")
SECTIONS += ("vqgan", "transformer", "train", "evaluate")
PANELS = ("generated", "true", "untrained", "cross_fade", "rife")  # clips side by side


@dataclass(frozen=True)
class Example:
    """A clip that is shown: uint8 `n H W 3` each."""

    clip_id: str
    panels: dict[str, torch.Tensor]

    @classmethod
    def of(cls, drawn: Drawn) -> "Example":
        truth = drawn.clip.frames
        faded = torch.cat([truth[:1], cross_fade(truth), truth[-1:]])
        known = {"generated": drawn.candidates[MODEL], "true": truth, "cross_fade": faded}
        known |= {name: drawn.candidates[name] for name in PANELS if name in drawn.candidates}
        return cls(drawn.clip.clip_id, known)

    def beside(self) -> dict[str, torch.Tensor]:
        """The first three panels: without context there is no untrained one, but a cross-fade."""
        names = [name for name in PANELS if name in self.panels][:3]
        return {spoken(name): self.panels[name] for name in names}


@dataclass(frozen=True)
class Shown:
    """What is looked at beside the numbers."""

    examples: list[Example]
    pictures: torch.Tensor  # uint8 B H W 3, and their reconstructions
    reconstructed: torch.Tensor
    trainings: list[str]  # titles of the tables that are curves of a training


def write(
    out: Path,
    found: dict,
    frames: dict[str, pd.DataFrame],
    shown: Shown,
    notes: Notes,
    settings: Params,
) -> None:
    """strip.png, reconstruction.png, videos/, report.html below `out`."""
    visualize.save_strips([(e.clip_id, _strip(e)) for e in shown.examples], out / "strip.png")
    visualize.save_pairs(shown.pictures, shown.reconstructed, out / "reconstruction.png")
    clips = [_write_clip(out / "videos", k, example) for k, example in enumerate(shown.examples, 1)]
    page = Page(
        title="Nakawari: evaluation of a run",
        verdict=notes.verdict,
        parameters=io.flatten(settings.model_dump(include=set(SECTIONS))),
        tables=tables.tables(found, frames),
        curves=tables.curves(frames, shown.trainings),
        pictures=[
            Picture(
                "Test clips",
                "From the given first to the given last frame. Below: error of the generated "
                "frames, from black (none) to white "
                f"({visualize.ERROR_WHITE} grey levels or more).",
                out / "strip.png",
            ),
            Picture(
                "Tokenizer",
                "Frames of test clips above, the same through the tokenizer and back below.",
                out / "reconstruction.png",
            ),
        ],
        clips=clips,
        warnings=[*notes.warnings, *(f"{k} left out: {v}" for k, v in notes.left_out.items())],
    )
    write_page(out / "report.html", page)


def _strip(example: Example) -> dict[str, torch.Tensor]:
    rows = example.beside()
    return rows | {"error": visualize.error_map(rows["generated"], rows["true"])}


def _write_clip(folder: Path, number: int, example: Example) -> Clip:
    """A small video a panel, and one with the first three beside each other."""
    compared = visualize.side_by_side(example.beside())
    write_video(folder / f"{number:02d}_compare.mp4", compared, SHOWN_FPS)
    files = {}
    for name, clip in example.panels.items():
        files[spoken(name)] = path = folder / f"{number:02d}_{name}.mp4"
        write_video(path, _enlarged(clip), SHOWN_FPS)
    return Clip(example.clip_id, files, fps=SHOWN_FPS)


def _enlarged(clip: torch.Tensor) -> Iterable[np.ndarray]:
    return (visualize.enlarge(frame, VIDEO_HEIGHT) for frame in clip.numpy())
