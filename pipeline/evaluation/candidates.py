"""What is measured of a test clip: the model's drawing, the baselines', clips drawn by chance.

Every candidate is a whole clip uint8 `n H W 3` whose frames 0 and n-1 are the given ones, so that
all are scored alike on their inner frames. `round_trip` looks at the true inner frames: it is the
ceiling of a model that draws with this tokenizer. `seed` is the same weights drawn as the thesis
did (section 4.3): one pass a frame, the likeliest code, the tokenizer's picture and nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pipeline.errors import UserError
from pipeline.inbetween.drawing import InBetweener, NotFinite, Style
from pipeline.metrics.baselines import BLIND
from pipeline.metrics.flow import RifeBaseline, optical_flow
from pipeline.metrics.summary import MODEL, ROUND_TRIP
from pipeline.models.gpt.sampling import Decoding
from pipeline.params import Evaluate
from pipeline.pretrained.rife import Rife
from pipeline.shards.loaders import Clip

SEED = "seed"
SEED_STYLE = Style(decode="argmax", detail="none")


@dataclass(frozen=True)
class Drawn:
    """All that is drawn of one true clip."""

    clip: Clip
    candidates: dict[str, torch.Tensor]  # name to uint8 n H W 3
    samples: list[torch.Tensor]  # uint8 n H W 3, drawn by chance from the same ends


class Candidates:
    """Draws a batch of clips in every way that `evaluate.baselines` names."""

    def __init__(self, model: InBetweener, settings: Evaluate, seed: int) -> None:
        self.model, self.settings = model, settings
        self.decoding = Decoding.from_params(settings.decoding)
        self.style = Style.from_params(settings, self.decoding)
        self.generator = torch.Generator().manual_seed(seed)
        self.ways = _ways(settings.baselines, settings.weights_folder, model.device)

    def draw(self, batch: Sequence[Clip], samples: int | None = None) -> list[Drawn]:
        """`samples`: clips drawn by chance, where it shall be others than the settings say."""
        warm = replace(self.decoding, temperature=self.decoding.temperature or 1.0)
        by_chance = Style.from_params(self.settings, warm)
        drawn = {MODEL: self.rollout(batch, self.style, self.decoding)}
        if SEED in self.settings.baselines:
            drawn[SEED] = self.rollout(batch, SEED_STYLE, Decoding(mode="seed"))
        samples = [
            self.rollout(batch, by_chance, warm)
            for _ in range(self.settings.samples if samples is None else samples)
        ]
        return [
            Drawn(
                clip,
                {name: clips[k] for name, clips in drawn.items()} | self._baselines(clip.frames),
                [clips[k] for clips in samples],
            )
            for k, clip in enumerate(batch)
        ]

    def rollout(
        self, batch: Sequence[Clip], style: Style, decoding: Decoding
    ) -> list[torch.Tensor]:
        first = torch.stack([clip.frames[0] for clip in batch])  # B H W 3
        last = torch.stack([clip.frames[-1] for clip in batch])
        try:
            lengths = [len(clip.frames) for clip in batch]
            return self.model.draw(first, last, lengths, style, decoding, self.generator)
        except NotFinite as error:
            names = ", ".join(clip.clip_id for clip in batch)
            raise UserError(f"drawing of {names}: {error}") from None

    def _baselines(self, clip: torch.Tensor) -> dict[str, torch.Tensor]:
        inner = {name: way(clip) for name, way in self.ways.items()}
        if ROUND_TRIP in self.settings.baselines:
            inner[ROUND_TRIP] = self.model.round_trip(clip[1:-1])[0].cpu()
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
