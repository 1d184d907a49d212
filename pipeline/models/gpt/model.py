"""GPT-2 that predicts the next frame's token ids, in one pass or in several steps.

It knows token ids and context features of frames. Letters: B clips, T frames, N tokens a frame,
V codebook size, M previous frames, C context channels, E width. Token ids are int64 in [0, V); V is
the mask token, a token that is not known yet.

`backbone` holds the transformer blocks. Around them stand the embeddings of token ids, rows and
columns, remaining frames and context features, and an output layer tied to the token table. Two
modes predict with one set of weights:

- `parallel` (thesis, section 3.3.1): the positions of frame i give all tokens of frame i+1 in one
  pass.
- `maskgit`: a partly known frame is completed, some tokens a step, the most confident first (Chang
  et al., MaskGIT, 2022, arXiv:2202.04200). Each target frame has a query block (`sequence`).

The context features of frame i+1 say what the warped keyframes show there, or what frame i shows
and where it is found again in the last frame. They are added to the block that predicts frame i+1.
"""

import json
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, TypeAdapter
from torch import Tensor, nn

from pipeline.config import Count, Layers, Number, Params, Probability
from pipeline.errors import UserError
from pipeline.models.gpt.backbone import INIT_STD, HuggingFaceGpt, PlainGpt
from pipeline.models.gpt.sequence import clip_mask, remaining

GPT2_SIZES = {  # transformer.transformer_type -> layers, heads, width
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
}
GPT2_POSITIONS = 1024  # rows of the published position tables
ALL_FRAMES = 10**9  # a window without end


@dataclass(frozen=True)
class GptConfig:
    """Everything that rebuilds the network."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # for from_dict

    sequence: Literal["full_clip", "sliding_window"]
    mode: Literal["parallel", "maskgit"]  # trained for; maskgit can generate in parallel too
    n_frames_before: Count | None  # M; None: all
    plain: bool  # our own GPT instead of transformers' GPT-2
    n_layer: Layers
    n_head: Count
    n_embd: Count
    dropout: Probability
    remaining_frames_method: Literal["own_embeddings", "concat", "token_type_ids", "none"]
    num_embeddings: Count  # V
    grid: tuple[Count, Count]  # tokens of a frame, rows and columns
    merge: Literal[1, 2]  # side of the square of tokens that share a position
    max_frames: Count  # longest clip trained on
    context_channels: Number  # C, 0: no context features

    @classmethod
    def from_params(
        cls, settings: Params, grid: tuple[int, int], context_channels: int = 0
    ) -> "GptConfig":
        """`grid` and `context_channels` are the tokenizer's."""
        gpt, train, clips = settings.transformer, settings.train, settings.clip_chunk
        sizes = GPT2_SIZES.get(gpt.transformer_type, (gpt.n_layer, gpt.n_head, gpt.n_embd))
        return cls(
            sequence=train.sequence,
            mode=train.mode,
            n_frames_before=None if train.n_frames_before == "all" else train.n_frames_before,
            plain=gpt.transformer_type == "plain",
            n_layer=sizes[0],
            n_head=sizes[1],
            n_embd=sizes[2],
            dropout=gpt.dropout,
            remaining_frames_method=gpt.remaining_frames_method,
            num_embeddings=settings.vqgan.vqvae.num_embeddings,
            grid=grid,
            merge=gpt.merge,
            # a scene that is too long for one clip and too short for two stays whole
            max_frames=max(clips.max_frames, 2 * clips.min_frames - 1),
            context_channels=context_channels,
        )

    @property
    def full_clip(self) -> bool:
        """Whether one pass goes over all frames of a clip."""
        return self.sequence == "full_clip"

    @property
    def tokens_per_frame(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def positions_per_frame(self) -> int:
        """P: tokens, or squares of them."""
        return self.tokens_per_frame // self.merge**2

    @property
    def window(self) -> int:
        """Previous frames that are seen. A position table has room for the longest clip."""
        return self.n_frames_before or (ALL_FRAMES if self.full_clip else self.max_frames)

    @property
    def positions(self) -> int:
        """Rows of the position table.

        A sliding window has its own length, or GPT-2's 1,024 if that is enough. A full clip needs
        one row: row, column and the distance to both ends have embeddings of their own.
        """
        if self.full_clip:
            return 1
        counter = self.remaining_frames_method == "concat"
        return max(GPT2_POSITIONS, (self.window + 1) * self.positions_per_frame + counter)

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict) -> "GptConfig":
        """ValidationError where keys are unknown or missing, or values impossible."""
        config = TypeAdapter(cls).validate_json(json.dumps(content), strict=True)
        if config.n_embd % config.n_head:
            raise ValueError(f"n_embd = {config.n_embd} is no multiple of n_head = {config.n_head}")
        if any(side % config.merge for side in config.grid):
            raise ValueError(f"grid = {config.grid} is no multiple of merge = {config.merge}")
        return config


class Conditioning(NamedTuple):
    """What is known of B clips beside the frames so far."""

    last: Tensor  # token ids B N of the given last frame
    n_frames: Tensor  # B: lengths
    features: Tensor | None = None  # float B T N C: context features of the frames 0..T-1


class FrameGpt(nn.Module):
    """Logits of the next frame's token ids."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.config = config
        self.gpt = PlainGpt(config) if config.plain else HuggingFaceGpt(config)
        self.output_bias = nn.Parameter(torch.zeros(config.num_embeddings))
        if config.full_clip:
            self.rows = _embedding(config.grid[0] // config.merge, config.n_embd)
            self.columns = _embedding(config.grid[1] // config.merge, config.n_embd)
        shared = config.merge**2  # tokens of a position
        if shared > 1:
            self.merge = nn.Linear(shared * config.n_embd, config.n_embd)
            self.split = nn.Linear(config.n_embd, shared * config.n_embd)
        if config.mode == "maskgit":
            self.mask_token = nn.Parameter(INIT_STD * torch.randn(config.n_embd))
            self.query_proj = nn.Linear(config.n_embd, config.n_embd)
        # Own tables: these counts never share rows with token ids. Row 0 marks the last frame.
        own_tables = config.remaining_frames_method == "own_embeddings"
        self.remaining = _embedding(config.max_frames, config.n_embd) if own_tables else None
        # A full clip has the distance to the first frame too: so its length is known.
        two_ways = own_tables and config.full_clip
        self.elapsed = _embedding(config.max_frames, config.n_embd) if two_ways else None
        if config.context_channels:
            self.register_buffer("context_mean", torch.zeros(config.context_channels))
            self.register_buffer("context_std", torch.ones(config.context_channels))
            self.context_proj = nn.Linear(shared * config.context_channels, config.n_embd)

    @property
    def table(self) -> Tensor:
        """Token embeddings `V E`, input and output in one as in GPT-2."""
        return self.gpt.wte.weight

    @torch.no_grad()
    def init_from_codebook(self, codebook: Tensor) -> None:
        """Starts the token embeddings from the codebook `V D`, so that like codes begin alike.

        A random projection of the vectors, scaled to GPT-2's initial standard deviation. Input and
        output share the table, so both know from the first step which codes look the same.
        """
        vectors = codebook.float() - codebook.float().mean(0)
        projected = vectors @ torch.randn(vectors.shape[1], self.config.n_embd)
        self.table.copy_(INIT_STD * projected / projected.std().clamp_min(1e-9))

    @torch.no_grad()
    def init_bias(self, counts: Tensor) -> None:
        """Starts the output bias from how often each token id occurs, `V`.

        The untrained model then predicts the frequencies, and its greedy choice is the most
        frequent token id.
        """
        smoothed = counts.float() + 1.0
        self.output_bias.copy_((smoothed / smoothed.sum()).log())

    @torch.no_grad()
    def fit_context(self, features: Tensor) -> None:
        """Sets mean and standard deviation by which context features `... C` are normalised."""
        std, mean = torch.std_mean(features.flatten(0, -2).float(), 0)
        self.context_mean.copy_(mean)
        self.context_std.copy_(torch.where(std > 1e-6, std, 1.0))  # a constant channel stays as is

    def forward(self, frames: Tensor, cond: Conditioning, start: int = 0) -> Tensor:
        """Logits of the frames after each of `frames`, in one pass: `B T N V`.

        frames: token ids `B T N` of the frames start, start+1, ... In a sliding window all T frames
        are the window, and only the logits after its last frame are returned: `B 1 N V`. UserError
        where the window is longer than the position table.
        """
        self._check(frames)
        n_positions = self.config.positions_per_frame
        blocks = torch.cat([self.embed_last(cond), self.embed_frames(frames, start, cond)], 1)
        inputs = blocks.flatten(1, 2)  # B (1+T)P E
        if not self.config.full_clip:
            if self.config.remaining_frames_method == "concat":
                left = remaining(cond.n_frames[:, None], start + frames.shape[1])  # B 1
                counter = self.table[self._scaled(left, cond.n_frames).round().long()]  # B 1 E
                inputs = torch.cat([counter, inputs], 1)
            hidden = self.backbone(inputs)[:, -n_positions:]  # B P E
            return self.logits(hidden)[:, None]
        mask = clip_mask(blocks.shape[1], 0, n_positions, self.config.window, frames.device)
        hidden = self.backbone(inputs, mask)[:, n_positions:]  # B TP E
        return self.logits(hidden.unflatten(1, (-1, n_positions)))

    def complete(
        self, frames: Tensor, cond: Conditioning, partial: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mode maskgit: logits of one pass, and of partly known frames, both `B T N V`.

        frames: token ids `B T N` of the frames 0, 1, ...; partial: `B T N` in [0, V], what is known
        of the frames after each, V: not known.
        """
        self._check(frames)
        n_positions, n_frames = self.config.positions_per_frame, frames.shape[1]
        blocks = self.embed_frames(frames, 0, cond)
        queries = self.embed_query(blocks, partial)
        sequence = torch.cat([self.embed_last(cond), blocks, queries], 1)  # B 1+2T P E
        mask = clip_mask(1 + n_frames, n_frames, n_positions, self.config.window, frames.device)
        hidden = self.backbone(sequence.flatten(1, 2), mask).unflatten(1, (-1, n_positions))
        logits = self.logits(hidden[:, 1:])  # B 2T N V
        return logits[:, :n_frames], logits[:, n_frames:]

    def backbone(self, inputs: Tensor, mask: Tensor | None = None, cache: object = None) -> Tensor:
        """Embedded positions `B S E` through the blocks; mask and cache as in `backbone`."""
        positions = torch.arange(inputs.shape[1], device=inputs.device)[None]  # 1 S
        if self.config.full_clip:
            positions = torch.zeros_like(positions)
        return self.gpt(inputs, positions, mask, cache)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states `... P E` to logits `... N V`; the bias is added in float32."""
        if self.config.merge > 1:
            hidden = self._apart(self.split(hidden))
        return hidden @ self.table.T + self.output_bias

    def embed_last(self, cond: Conditioning) -> Tensor:
        """The given last frame as a block `B 1 P E`."""
        block = self._merged(F.embedding(cond.last[:, None], self.table))
        if self.config.context_channels:
            clip = torch.arange(len(cond.last), device=cond.last.device)
            block = block + self._context(cond.features[clip, cond.n_frames - 1][:, None])
        left = torch.zeros_like(cond.n_frames)[:, None]  # B 1
        return self._add_place(self._add_time(block, left, cond.n_frames))

    def embed_frames(self, frames: Tensor, start: int, cond: Conditioning) -> Tensor:
        """Token ids `B T N` of the frames start, start+1, ... as blocks `B T P E`.

        Each block gets the time and the context features of the frame that is predicted from it.
        """
        predicted = start + 1 + torch.arange(frames.shape[1], device=frames.device)  # T
        blocks = self._merged(F.embedding(frames, self.table))
        if self.config.context_channels:
            features = cond.features[:, start + 1 : start + 1 + frames.shape[1]]  # B T N C
            blocks = blocks + self._context(features)
        left = remaining(cond.n_frames[:, None], predicted[None])  # B T
        return self._add_place(self._add_time(blocks, left, cond.n_frames))

    def embed_query(self, blocks: Tensor, partial: Tensor) -> Tensor:
        """Query blocks `B T P E`: the predicting blocks plus the partly known frames `B T N`."""
        unknown = partial == self.config.num_embeddings
        tokens = F.embedding(partial.masked_fill(unknown, 0), self.table)
        tokens = torch.where(unknown[..., None], self.mask_token, tokens)
        return blocks + self._merged(self.query_proj(tokens))

    def _context(self, features: Tensor) -> Tensor:
        """Context features `... N C` to the width, `... P E`."""
        features = (features.float() - self.context_mean) / self.context_std
        return self.context_proj(self._together(features))

    def _merged(self, tokens: Tensor) -> Tensor:
        """Embedded tokens `... N E` to positions `... P E`."""
        return tokens if self.config.merge == 1 else self.merge(self._together(tokens))

    def _together(self, tokens: Tensor) -> Tensor:
        """`... N C` to the squares that share a position, `... P mmC`, m = merge."""
        m, (rows, columns) = self.config.merge, self.config.grid
        squares = tokens.unflatten(-2, (rows // m, m, columns // m, m))
        return squares.transpose(-4, -3).flatten(-3).flatten(-3, -2)

    def _apart(self, positions: Tensor) -> Tensor:
        """The other way: `... P mmC` to `... N C`."""
        m, (rows, columns) = self.config.merge, self.config.grid
        squares = positions.unflatten(-1, (m, m, -1)).unflatten(-4, (rows // m, columns // m))
        return squares.transpose(-4, -3).flatten(-5, -2)

    def _add_time(self, blocks: Tensor, left: Tensor, n_frames: Tensor) -> Tensor:
        """Adds where in its clip the predicted frame stands: `B T N E`.

        left: `B T`, frames that remain when it is predicted, 0 for the block of the last frame.
        """
        if self.config.remaining_frames_method == "token_type_ids":
            return blocks + self.table[self._scaled(left, n_frames).round().long()][:, :, None]
        if self.remaining is not None:
            blocks = blocks + _interpolated(self.remaining, self._scaled(left, n_frames))
        if self.elapsed is not None:
            gone = n_frames[:, None] - 1 - left  # the predicted frame's number
            blocks = blocks + _interpolated(self.elapsed, self._scaled(gone, n_frames))
        return blocks

    def _scaled(self, count: Tensor, n_frames: Tensor) -> Tensor:
        """Counts `B T` as rows of a table, scaled where a clip is longer than any in training.

        So the distances to both ends change at the same slower pace.
        """
        longest = self.config.max_frames - 1
        scale = (longest / (n_frames - 1)).clamp(max=1.0)
        return (count.clamp(min=0) * scale[:, None]).clamp(max=longest)

    def _add_place(self, blocks: Tensor) -> Tensor:
        """Adds row and column of each token in a full-clip sequence: `B T N E`."""
        if not self.config.full_clip:
            return blocks
        places = self.rows.weight[:, None] + self.columns.weight[None]  # rows columns E
        return blocks + places.flatten(0, 1)

    def _check(self, frames: Tensor) -> None:
        assert frames.dim() == 3 and frames.shape[2] == self.config.tokens_per_frame, frames.shape
        if not self.config.full_clip and frames.shape[1] > self.config.window:
            raise UserError(
                f"{frames.shape[1]} previous frames: the transformer's position table has room for "
                f"{self.config.window} (train.n_frames_before); train it with a larger window"
            )


def _embedding(rows: int, width: int) -> nn.Embedding:
    table = nn.Embedding(rows, width)
    nn.init.normal_(table.weight, std=INIT_STD)
    return table


def _interpolated(table: nn.Embedding, rows: Tensor) -> Tensor:
    """Rows `B T` of a table, also fractions between two: `B T 1 E`."""
    low = rows.floor().long()
    high = (low + 1).clamp(max=len(table.weight) - 1)
    return torch.lerp(table(low), table(high), (rows - low)[..., None])[:, :, None]
