"""GPT-2 that draws the next frame, in one pass or in several steps.

It knows codes, never pixels. Letters: B clips, T frames, N tokens a frame, P positions a frame, V
codes, E width. Codes are int64 in [0, V); V stands for a token that is not drawn yet.

The blocks of `trunk` do the work (Radford et al., 2019); around them stand the embeddings of codes,
of places and of remaining frames, and the head. Three modes draw with one set of weights:

- `seed` (thesis, section 4.3): the positions of frame i give all tokens of frame i+1 in one pass.
- `maskgit`: a frame that is known in part is completed, some tokens a step, those first of which
  the model is surest (Chang et al., MaskGIT, 2022, arXiv:2202.04200).
- `autoregressive`: position after position, each told those before it.

The last two read the frames before through the very positions of `seed`, and have a block of their
own for the frame that is being drawn (`sequence`).

A position need not stand for one token: with `merge` = 2 a square of 2x2 tokens shares a position,
each with a quarter of its width, and is drawn at once. Sequences get 4 times shorter. 1 is GPT-2 as
the thesis used it.

With `moved_keys` the model is told, for each frame, the codes of both given frames as they look
when they are moved along their optical flow to its time. Where the flow is right the motion is
known, and the model learns where it is not. What is there already may be copied (`head`).
"""

from typing import NamedTuple

import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.gpt2.config import GptConfig
from pipeline.gpt2.head import Head, Sources
from pipeline.gpt2.sequence import remaining
from pipeline.gpt2.trunk import make_trunk

DEVIATION = 0.02  # of embeddings before training, GPT-2's


class Given(NamedTuple):
    """What is known of B clips beside the frames so far."""

    last: torch.Tensor  # codes B N
    n_frames: torch.Tensor  # B: their lengths
    hide: torch.Tensor | None = None  # bool B: clips that are not told their last frame
    moved: torch.Tensor | None = None  # codes B T N: both ends, moved to each frame's time


class FrameGpt(nn.Module):
    """Logits of the next frame's codes."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.config = config
        self.gpt = make_trunk(config)
        share = config.n_embd // config.merge**2  # of a token in the width of its position
        if config.merge > 1:
            self.codes = _embedding(config.num_embeddings, share)
        if config.whole:
            self.rows, self.columns = (_embedding(side, config.n_embd) for side in config.places)
        if len(config.modes) > 1:
            self.blank = nn.Parameter(DEVIATION * torch.randn(share))  # a token not drawn yet
            self.drawing = nn.Linear(config.n_embd, config.n_embd)
        if config.moved_keys:
            self.moving = nn.Linear(config.n_embd, config.n_embd)
        if config.key_dropout:
            self.hidden_key = nn.Parameter(DEVIATION * torch.randn(config.n_embd))
        counts = config.max_frames if config.remaining_frames_method == "own_embeddings" else 0
        # An own table: these counts never share rows with codes. Row 0 marks the last frame.
        self.remaining = _embedding(counts, config.n_embd) if counts else None
        # The clip layout tells the way back to the first frame too: its length is then known.
        self.elapsed = _embedding(counts, config.n_embd) if counts and config.whole else None
        order = _squares(config).flatten()
        self.register_buffer("order", order, persistent=False)  # N: tokens, square after square
        self.head = Head(config, order.argsort())

    @torch.no_grad()
    def start(self, codebook: torch.Tensor) -> None:
        """Starts the code embeddings from the codebook `V D`, so that like codes begin alike.

        A random projection of the vectors, scaled to GPT-2's initial deviation. Input and output
        share the table, so both know from the first step which codes look the same.
        """
        vectors = codebook.float() - codebook.float().mean(0)
        projected = vectors @ torch.randn(vectors.shape[1], self.table.shape[1])
        self.table.copy_(DEVIATION * projected / projected.std().clamp_min(1e-9))

    @property
    def table(self) -> torch.Tensor:
        """Code embeddings `V E/merge^2`, input and output in one as in GPT-2."""
        return self.gpt.wte.weight if self.config.merge == 1 else self.codes.weight

    def embed_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `B T N` to positions `B T P E`."""
        x = nn.functional.embedding(codes[..., self.order], self.table)  # B T N E/mm
        return x.flatten(2).unflatten(2, (self.config.positions_per_frame, -1))

    def embed_drawing(self, codes: torch.Tensor) -> torch.Tensor:
        """The same of a frame that is drawn in part: codes `B T N` in [0, V], V: not drawn."""
        blank = codes[..., self.order, None] == self.config.num_embeddings
        x = nn.functional.embedding(codes.clamp(max=self.config.num_embeddings - 1), self.table)
        x = torch.where(blank, self.blank, x[..., self.order, :])
        return self.drawing(x.flatten(2).unflatten(2, (self.config.positions_per_frame, -1)))

    def forward(
        self,
        frames: torch.Tensor,
        last: torch.Tensor,
        n_frames: torch.Tensor,
        start: int = 0,
        hide: torch.Tensor | None = None,
        moved: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits of the frames after each of `frames` in one pass: `B T N V`.

        frames: codes `B T N` of the frames start, start+1, ...; the rest as in `Given`. In the
        layout `windowed` all T frames are the window, and only the logits after its last frame are
        given: `B 1 N V`. UserError where the window is longer than the position table.
        """
        self._check(frames)
        given = Given(last, n_frames, hide, moved)
        inputs = self._embed(frames, given, start)
        hidden = self.gpt(inputs, self._position_ids(inputs))
        hidden = hidden[:, -frames[0].numel() // self.config.merge**2 :]  # B TP E
        return self._next(hidden, frames, given, start)

    def complete(
        self,
        frames: torch.Tensor,
        last: torch.Tensor,
        n_frames: torch.Tensor,
        drawn: torch.Tensor,
        causal: bool,
        hide: torch.Tensor | None = None,
        moved: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Clip layout: logits of one pass, and of frames drawn in part, both `B T N V`.

        frames: codes `B T N` of the frames 0, 1, ...; drawn: `B T N` in [0, V], what is there of
        the frames after each. causal: each position is told those before it, and no later one.
        """
        self._check(frames)
        given = Given(last, n_frames, hide, moved)
        drawing = self.read(frames, 0, given) + self._previous(self.embed_drawing(drawn), causal)
        drawing = drawing.flatten(1, 2)  # B TP E
        inputs = torch.cat([self._embed(frames, given, 0), drawing], 1)  # B (1+2T)P E
        hidden = self.gpt(inputs, self._position_ids(inputs), drawn=frames.shape[1], causal=causal)
        size = drawing.shape[1]
        _, whole, parts = hidden.split([hidden.shape[1] - 2 * size, size, size], 1)
        return self._next(whole, frames, given, 0), self._next(parts, frames, given, 0)

    def _previous(self, drawing: torch.Tensor, causal: bool) -> torch.Tensor:
        """Each position of `B T P E` is given the one before it, the first one none."""
        if not causal:
            return drawing
        return torch.cat([self.nothing.expand_as(drawing[:, :, :1]), drawing[:, :, :-1]], 2)

    @property
    def nothing(self) -> torch.Tensor:
        """A position `E` of which nothing is drawn."""
        return self.drawing(self.blank.repeat(self.config.merge**2))

    def _next(
        self, hidden: torch.Tensor, frames: torch.Tensor, given: "Given", start: int
    ) -> torch.Tensor:
        """Hidden states `B TP E` of the positions of T frames to logits of those after them."""
        hidden = hidden.unflatten(1, (-1, self.config.positions_per_frame))
        if not self.config.whole:
            start += frames.shape[1] - 1
            frames, hidden = frames[:, -1:], hidden[:, -1:]
        first = frames[:, :1] if self.config.whole else None
        return self.head(hidden, self.table, self.sources(frames, first, start, given))

    def sources(
        self, frames: torch.Tensor, first: torch.Tensor | None, start: int, given: "Given"
    ) -> Sources:
        """What the frames after `frames` may copy.

        frames: `B T N`, those from number `start` on; first: the clip's first, `B 1 N`.
        """
        i = start + 1 + torch.arange(frames.shape[1], device=frames.device)  # predicted frames
        progress = i[None] / (given.n_frames[:, None] - 1)
        ends = [given.last[:, None], *([] if first is None else [first])]
        found = [frames, *(end.expand_as(frames) for end in ends)]
        if self.config.moved_keys:
            found.append(given.moved[:, start + 1 : start + 1 + frames.shape[1]])
        return Sources(found, progress, given.hide)

    def _check(self, frames: torch.Tensor) -> None:
        assert frames.dim() == 3 and frames.shape[2] == self.config.tokens_per_frame, frames.shape
        if not self.config.whole and frames.shape[1] > self.config.window:
            raise UserError(
                f"{frames.shape[1]} previous frames: the transformer's position table has room for "
                f"{self.config.window} (train.n_frames_before); train it with a larger window"
            )

    def _embed(self, frames: torch.Tensor, given: "Given", start: int) -> torch.Tensor:
        """`B (1+T)P E`, or one position more in front with the method `concat`."""
        key = self.embed_key(given.last, given.n_frames, given.hide)
        embedded = torch.cat([key, self.read(frames, start, given)], 1).flatten(1, 2)  # B (1+T)P E
        if self.config.remaining_frames_method == "concat":
            left = remaining(given.n_frames[:, None], start + frames.shape[1])  # B 1
            counter = self.table[self._spread(left, given.n_frames).round().long()]  # B 1 E
            embedded = torch.cat([counter, embedded], 1)
        return embedded

    def read(self, frames: torch.Tensor, start: int, given: "Given") -> torch.Tensor:
        """Codes `B T N` of the frames from number `start` on as blocks `B T P E`.

        Each is told which frame is predicted from it, and what the moved ends look like there.
        """
        i = start + 1 + torch.arange(frames.shape[1], device=frames.device)
        embedded = self.embed_codes(frames)
        if self.config.moved_keys:
            moved = self.moving(self.embed_codes(given.moved[:, start + 1 : start + 1 + len(i)]))
            if given.hide is not None:
                moved = moved * ~given.hide[:, None, None, None]
            embedded = embedded + moved
        left = remaining(given.n_frames[:, None], i[None])  # B T
        return self.place(self.mark(embedded, left, given.n_frames))

    def embed_key(
        self, last: torch.Tensor, n_frames: torch.Tensor, hide: torch.Tensor | None
    ) -> torch.Tensor:
        """The last frame `B N` as a block of its own, `B 1 P E`."""
        key = self.embed_codes(last[:, None])
        if hide is not None:
            key = torch.where(hide[:, None, None, None], self.hidden_key, key)
        return self.place(self.mark(key, torch.zeros_like(n_frames)[:, None], n_frames))

    def mark(
        self, embedded: torch.Tensor, left: torch.Tensor, n_frames: torch.Tensor
    ) -> torch.Tensor:
        """Adds each frame's place in the clip to its positions. `B T P E`, `B T`, `B`.

        `left` is what remains when the frame after it is predicted, 0 for the last frame.
        """
        if self.config.remaining_frames_method == "token_type_ids":
            return embedded + self.table[self._spread(left, n_frames).round().long()][:, :, None]
        if self.remaining is None:
            return embedded
        embedded = embedded + _between_rows(self.remaining, self._spread(left, n_frames))
        if self.elapsed is None:
            return embedded
        gone = remaining(n_frames[:, None], left)  # the predicted frame's number; n-1 for the last
        return embedded + _between_rows(self.elapsed, self._spread(gone, n_frames))

    def _spread(self, count: torch.Tensor, n_frames: torch.Tensor) -> torch.Tensor:
        """Counts `B T` of a clip longer than any in training, spread over those that were trained.

        So both ways, to the first frame and to the last, go at the same slower pace.
        """
        longest = self.config.max_frames - 1
        scale = (longest / (n_frames - 1)).clamp(max=1.0)
        return (count.clamp(min=0) * scale[:, None]).clamp(max=longest)

    def place(self, embedded: torch.Tensor) -> torch.Tensor:
        """Adds row and column of each position in the clip layout. `B T P E`."""
        if not self.config.whole:
            return embedded
        places = self.rows.weight[:, None] + self.columns.weight[None]  # r c E
        return embedded + places.flatten(0, 1)

    def _position_ids(self, inputs: torch.Tensor) -> torch.Tensor:
        """Rows of the blocks' own table, `1 S`: the clip layout has just one, for all."""
        count = torch.arange(inputs.shape[1], device=inputs.device)[None]
        return torch.zeros_like(count) if self.config.whole else count


def _embedding(rows: int, width: int) -> nn.Embedding:
    table = nn.Embedding(rows, width)
    nn.init.normal_(table.weight, std=DEVIATION)
    return table


def _between_rows(table: nn.Embedding, rows: torch.Tensor) -> torch.Tensor:
    """Rows `B T`, also fractions between two, to `B T 1 E`."""
    low = rows.floor().long()
    high = (low + 1).clamp(max=len(table.weight) - 1)
    part = (rows - low)[..., None]
    return torch.lerp(table(low), table(high), part)[:, :, None]


def _squares(config: GptConfig) -> torch.Tensor:
    """Tokens of each position, `P mm`: squares row by row, and so their tokens."""
    (rows, columns), merge = config.grid, config.merge
    tokens = torch.arange(rows * columns).view(rows // merge, merge, columns // merge, merge)
    return tokens.transpose(1, 2).reshape(-1, merge**2)
