"""What is measured of a test clip: the model's drawing, the baselines', several samples.

Every candidate is a whole clip uint8 `n H W 3` whose frames 0 and n-1 are the given ones, so that
all are scored alike on their inner frames. Three of them say what the networks are worth:
`untrained` is what they start from, `without_codes` is the decoder alone, and `round_trip` the true
inner frames through the tokenizer, as if the transformer made no error.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.config import Evaluate
from pipeline.data.datasets import Clip
from pipeline.errors import UserError
from pipeline.evaluation.baselines import BLIND
from pipeline.evaluation.flow_baselines import RifeBaseline, optical_flow
from pipeline.evaluation.statistics.summary import MODEL, ROUND_TRIP, UNTRAINED, WITHOUT_CODES
from pipeline.inference.inbetweener import InBetweener, NotFinite
from pipeline.models.pretrained.rife import Rife


@dataclass(frozen=True)
class Drawn:
    """All that is drawn of one true clip."""

    clip: Clip
    candidates: dict[str, torch.Tensor]  # name to uint8 n H W 3
    samples: list[torch.Tensor]  # uint8 n H W 3, sampled from the same ends


class Candidates:
    """Draws a batch of clips in every way that `evaluate.baselines` names."""

    def __init__(self, model: InBetweener, settings: Evaluate, seed: int) -> None:
        self.model, self.settings = model, settings
        self.decoding = settings.decoding
        self.generator = torch.Generator().manual_seed(seed)
        self.ways = _ways(settings.baselines, settings.weights_folder, model.device)

    def draw(self, batch: Sequence[Clip], samples: int | None = None) -> list[Drawn]:
        """`samples`: sampled clips, where it shall be others than the settings say."""
        first = torch.stack([clip.frames[0] for clip in batch])  # B H W 3
        last = torch.stack([clip.frames[-1] for clip in batch])
        ends = (first, last, [len(clip.frames) for clip in batch])
        hot = {"temperature": self.decoding.temperature or 1.0}
        sampled = self.decoding.model_copy(update=hot)
        count = self.settings.samples if samples is None else samples
        try:
            drawn = {MODEL: self.model.generate(*ends, self.decoding, self.generator)}
            if self.model.has_context and UNTRAINED in self.settings.baselines:
                drawn[UNTRAINED] = self.model.untrained(*ends)
            if self.model.has_context and WITHOUT_CODES in self.settings.baselines:
                drawn[WITHOUT_CODES] = self.model.without_codes(*ends)
            varied = [self.model.generate(*ends, sampled, self.generator) for _ in range(count)]
        except NotFinite as error:
            names = ", ".join(clip.clip_id for clip in batch)
            raise UserError(f"drawing of {names}: {error}") from None
        return [
            Drawn(
                clip,
                {name: clips[k] for name, clips in drawn.items()} | self._baselines(clip.frames),
                [clips[k] for clips in varied],
            )
            for k, clip in enumerate(batch)
        ]

    def _baselines(self, clip: torch.Tensor) -> dict[str, torch.Tensor]:
        inner = {name: way(clip) for name, way in self.ways.items()}
        if ROUND_TRIP in self.settings.baselines:
            inner[ROUND_TRIP] = self.model.round_trip(clip)[0]
        return {name: torch.cat([clip[:1], x, clip[-1:]]) for name, x in inner.items()}


def _ways(
    names: Sequence[str], folder: Path | None, device: torch.device
) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Baselines that see the ends only, by name."""
    ways = {name: BLIND[name] for name in names if name in BLIND}
    if "optical_flow" in names:
        ways["optical_flow"] = optical_flow
    if "rife" in names:
        ways["rife"] = RifeBaseline(Rife.pretrained(folder), device)
    return ways


def check_length(clip_id: str, n_frames: int) -> None:
    """Refuses a clip that has nothing to draw."""
    if n_frames < 3:
        raise UserError(
            f"clip {clip_id} has {n_frames} frames, expected at least 3: both given ones and one "
            "between; run `dvc repro clip_chunk`"
        )


def check_size(clip: Clip, size: tuple[int, int]) -> None:
    """Refuses a clip of another size than the model's."""
    if tuple(clip.frames.shape[1:3]) != size:
        found = "x".join(map(str, clip.frames.shape[1:3]))
        raise UserError(
            f"clip {clip.clip_id} is of {found} pixels, the models are of {size[0]}x{size[1]}; "
            "run `dvc repro`, so that clips and models are made of the same frames"
        )
