"""Drawing a clip frame by frame in token space: each frame is read by the next one as codes.

A frame is drawn in one of the modes that `model` names. Its codes are the likeliest, or drawn by
chance at a temperature, from the likeliest k (`top_k`) or from the fewest that make up a share p
(`top_p`: Holtzman et al., 2020, arXiv:1904.09751). `guidance` w above 1 draws from
logits of a clip whose end is unknown + w * (those of the true end - those), which follows the given
last frame more (Ho and Salimans, 2022, arXiv:2207.12598).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from pipeline import params
from pipeline.errors import UserError
from pipeline.gpt2.config import GptConfig
from pipeline.gpt2.model import FrameGpt, Given
from pipeline.gpt2.rollout import Rollout


@dataclass(frozen=True)
class Decoding:
    """How codes are drawn; see the module's text."""

    mode: str = "auto"  # seed | maskgit | autoregressive | auto: what the model was trained for
    steps: int = 8  # of maskgit, a frame
    temperature: float = 0.0  # 0: likeliest codes
    top_k: int = 0  # 0: all codes
    top_p: float = 1.0  # 1: all codes
    guidance: float = 1.0  # 1: none

    @classmethod
    def from_params(cls, settings: params.Decoding, **changes: object) -> "Decoding":
        return cls(**settings.model_dump() | changes)


LIKELIEST = Decoding()


class Drawn(NamedTuple):
    codes: torch.Tensor  # B N
    logits: torch.Tensor  # B N V, from which each code was picked


@torch.no_grad()
def draw(
    model: FrameGpt,
    first: torch.Tensor,
    last: torch.Tensor,
    n_frames: torch.Tensor,
    decoding: Decoding = LIKELIEST,
    generator: torch.Generator | None = None,
    moved: torch.Tensor | None = None,
) -> Iterator[Drawn]:
    """Yields the frames 1, 2, ..., max(n_frames) - 2 of clips with the given ends.

    first, last: codes `B N`; n_frames: `B`, each at least 3. Frames past the end of a shorter clip
    of the batch are meaningless. generator: on the CPU, for a temperature above 0. moved: codes
    `B T N`, as in `model.Given`. UserError where the model was not trained for what `decoding`
    asks.
    """
    assert int(n_frames.min()) >= 3, n_frames
    mode = resolved(decoding, model.config)
    picker = Picker(decoding, generator)
    steps = int(n_frames.max()) - 2
    if not model.config.whole:
        yield from _windowed(model, first, Given(last, n_frames, None, moved), steps, picker)
        return
    clips = _Clips(model, Given(last, n_frames, None, moved), decoding.guidance)
    codes = first
    for _ in range(steps):
        logits = clips.feed(codes)
        if mode == "seed":
            drawn = Drawn(picker.pick(logits), logits)
        elif mode == "maskgit":
            drawn = _completed(clips, codes, decoding, picker)
        else:
            drawn = _in_order(clips, codes, picker)
        yield drawn
        codes = drawn.codes


def resolved(decoding: Decoding, config: GptConfig) -> str:
    """The mode in which a model draws; UserError where it was not trained for it."""
    mode = config.modes[-1] if decoding.mode == "auto" else decoding.mode
    if mode not in config.modes:
        raise UserError(
            f"mode {mode}: the transformer was trained with train.mode = {config.mode} and draws "
            f"in {', '.join(config.modes)}; train it with -S train.mode={mode} (or all) and "
            "train.layout=clip"
        )
    if decoding.guidance != 1 and not config.key_dropout:
        raise UserError(
            f"guidance {decoding.guidance:g}: the transformer always knew the last frame in its "
            "training; train it with -S train.key_dropout=0.1 and train.layout=clip, or set "
            "guidance to 1"
        )
    return mode


class Picker:
    """Codes from logits, the likeliest or by chance."""

    def __init__(self, decoding: Decoding, generator: torch.Generator | None) -> None:
        self.rules = decoding
        self.generator = generator or torch.Generator().manual_seed(0)

    def pick(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits `B n V` to codes `B n`."""
        if self.rules.temperature == 0:
            return logits.argmax(-1)
        scaled = logits.float().cpu() / self.rules.temperature  # where the generator is
        chances = filtered(scaled, self.rules.top_k, self.rules.top_p).softmax(-1)
        codes = torch.multinomial(chances.flatten(0, 1), 1, generator=self.generator)
        return codes.view(chances.shape[:2]).to(logits.device)

    def noise(self, like: torch.Tensor) -> torch.Tensor:
        """Gumbel's, times the temperature, in the form of `like`."""
        if self.rules.temperature == 0:
            return torch.zeros_like(like)
        uniform = torch.rand(like.shape, generator=self.generator).clamp_(1e-9, 1 - 1e-7)
        return (-self.rules.temperature * (-uniform.log()).log()).to(like.device)


def filtered(logits: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Logits `... V` without those that are left out by either rule (-inf); the likeliest stays."""
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k, -1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1:
        ordered, places = logits.sort(-1, descending=True)
        chances = ordered.softmax(-1)
        before = chances.cumsum(-1) - chances  # of all that are likelier
        out = (before >= top_p).scatter(-1, places, before >= top_p)
        logits = logits.masked_fill(out, -torch.inf)
    return logits


class _Clips:
    """A rollout; with guidance a second one beside it that is not told the last frame."""

    def __init__(self, model: FrameGpt, given: Given, guidance: float) -> None:
        self.config, self.guidance = model.config, guidance
        self.twice = guidance != 1
        if self.twice:
            last, n_frames, _, moved = given
            hide = torch.arange(2, device=last.device).repeat_interleave(len(last)).bool()
            moved = None if moved is None else self._both(moved)
            given = Given(self._both(last), self._both(n_frames), hide, moved)
        self.rollout = Rollout(model, given)

    def feed(self, frame: torch.Tensor) -> torch.Tensor:
        return self._guided(self.rollout.feed(self._both(frame)))

    def complete(self, drawn: torch.Tensor) -> torch.Tensor:
        return self._guided(self.rollout.complete(self._both(drawn)))

    def position(self, place: int, drawn: torch.Tensor) -> torch.Tensor:
        return self._guided(self.rollout.position(place, self._both(drawn)))

    def _both(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x]) if self.twice else x

    def _guided(self, logits: torch.Tensor) -> torch.Tensor:
        if not self.twice:
            return logits
        told, untold = logits.chunk(2)
        return untold + self.guidance * (told - untold)


def _completed(clips: _Clips, like: torch.Tensor, decoding: Decoding, picker: Picker) -> Drawn:
    """Mode `maskgit`: a frame in the form of `like`, `B N`, the surest tokens first."""
    blank, size = clips.config.num_embeddings, like.shape[1]
    drawn, kept = torch.full_like(like, blank), None
    for step in range(1, decoding.steps + 1):
        logits = clips.complete(drawn)
        codes = picker.pick(logits)
        sure = logits.float().log_softmax(-1).gather(2, codes[..., None])[..., 0]
        sure = sure + (1 - step / decoding.steps) * picker.noise(sure)
        open_ = drawn == blank
        count = size - int(size * math.cos(0.5 * math.pi * step / decoding.steps) + 1e-6)
        best = sure.masked_fill(~open_, torch.inf).topk(count, -1).indices
        new = torch.zeros_like(open_).scatter(1, best, True) & open_
        drawn = torch.where(new, codes, drawn)
        kept = logits if kept is None else torch.where(new[..., None], logits, kept)
    return Drawn(drawn, kept)


def _in_order(clips: _Clips, like: torch.Tensor, picker: Picker) -> Drawn:
    """Mode `autoregressive`: position after position."""
    order = clips.rollout.model.order.view(clips.config.positions_per_frame, -1)  # P mm
    drawn, parts = torch.zeros_like(like), []
    for place, tokens in enumerate(order):
        logits = clips.position(place, drawn)  # B mm V
        drawn[:, tokens] = picker.pick(logits)
        parts.append(logits)
    return Drawn(drawn, torch.cat(parts, 1)[:, clips.rollout.model.head.back])


def _windowed(
    model: FrameGpt,
    first: torch.Tensor,
    given: Given,
    steps: int,
    picker: Picker,
) -> Iterator[Drawn]:
    """Layout `windowed`: the whole window is read anew for each frame."""
    frames = first[:, None]  # B T N
    for i in range(steps):
        seen = frames[:, -model.config.window :]
        start = i + 1 - seen.shape[1]
        logits = model(seen, given.last, given.n_frames, start, moved=given.moved)[:, 0]
        codes = picker.pick(logits)
        frames = torch.cat([frames, codes[:, None]], 1)
        yield Drawn(codes, logits)
