"""GPT-2 that draws the next frame: all its tokens in one pass, from the frame before.

Hugging Face's GPT2Model does the work (Radford et al., 2019); around it stand the embeddings of
codes and of remaining frames, and the head. It knows codes, never pixels. Letters: B clips, T
frames, N tokens a frame, P positions a frame, V codes, E width. Codes are int64 in [0, V).

All tokens of a frame are drawn in one pass, so a position need not stand for one token: with
`merge` = 2 a square of 2x2 tokens shares a position, each with a quarter of its width. Sequences
get 4 times shorter. 1 is GPT-2 as the thesis used it.

Nine codes in ten of a cartoon stay where they are from one frame to the next. With `copying` a
small head adds to the logits of the codes that stand at the same place in the frame before, in
the last frame and (layout `clip`) in the first one: a pointer head as in See et al., Get To The
Point (2017, arXiv:1704.04368), with a gate a source. It starts from what needs no learning, in the
layout `clip` from holding the nearer given frame with a soft change in the middle, in the layout
`windowed` from holding the frame before; training goes on from there to what moves.
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import nn

from pipeline.gpt2.attention import NAME, frame_window_attention
from pipeline.gpt2.sequence import remaining
from pipeline.params import Params
from pipeline.torch_setup import repair_torchvision

SIZES = {  # layers, heads, width
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
}
GPT2_POSITIONS = 1024  # rows of the published position tables
HOLD_AT_START = 0.9  # chance of the code that is already there, before training
CHANGE_AT_START = 3.0  # logits by which the nearer given frame is preferred at the clip's ends


@dataclass(frozen=True)
class GptConfig:
    """Everything that rebuilds the network."""

    layout: str  # clip | windowed
    n_frames_before: int  # M
    n_layer: int
    n_head: int
    n_embd: int
    embd_pdrop: float
    resid_pdrop: float
    attn_pdrop: float
    remaining_frames_method: str  # own_embeddings | none
    copying: bool
    merge: int  # tokens a side of the square that shares a position
    num_embeddings: int  # V
    grid: tuple[int, int]  # tokens of a frame, rows and columns
    max_frames: int  # longest clip trained on

    @classmethod
    def from_params(cls, settings: Params) -> "GptConfig":
        gpt, train = settings.transformer, settings.train
        sizes = SIZES.get(gpt.transformer_type, (gpt.n_layer, gpt.n_head, gpt.n_embd))
        return cls(
            layout=train.layout,
            n_frames_before=train.n_frames_before,
            n_layer=sizes[0],
            n_head=sizes[1],
            n_embd=sizes[2],
            embd_pdrop=gpt.embd_pdrop,
            resid_pdrop=gpt.resid_pdrop,
            attn_pdrop=gpt.attn_pdrop,
            remaining_frames_method=gpt.remaining_frames_method,
            copying=gpt.copying,
            merge=gpt.merge,
            num_embeddings=settings.vqgan.vqvae.num_embeddings,
            grid=settings.grid,
            max_frames=settings.clip_chunk.longest,
        )

    @property
    def tokens_per_frame(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def sources(self) -> int:
        """Frames whose codes may be copied: before, last, and in the clip layout the first."""
        return 3 if self.layout == "clip" else 2

    @property
    def positions_per_frame(self) -> int:
        return self.tokens_per_frame // self.merge**2

    @property
    def positions(self) -> int:
        """Rows of the position table.

        Windowed: the whole context, or GPT-2's own 1,024 if that is enough. Clip: the place in a
        frame, twice, because the last frame has places of its own; the frame's place in the clip
        is told by the number of remaining frames.
        """
        if self.layout == "clip":
            return 2 * self.positions_per_frame
        return max(GPT2_POSITIONS, (self.n_frames_before + 1) * self.positions_per_frame)

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict) -> "GptConfig":
        return cls(**content | {"grid": tuple(content["grid"])})


class FrameGpt(nn.Module):
    """Logits of the next frame's codes."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.config = config
        self.gpt = _gpt2(config)
        if config.merge > 1:  # each token has its share of a position's width
            self.codes = nn.Embedding(config.num_embeddings, config.n_embd // config.merge**2)
            nn.init.normal_(self.codes.weight, std=0.02)
        if config.copying:
            self.gates = nn.Linear(config.n_embd, config.sources * config.merge**2)
            nn.init.zeros_(self.gates.weight)
            nn.init.zeros_(self.gates.bias)
            self.prior = nn.Parameter(_prior(config))
        rows = config.max_frames if config.remaining_frames_method == "own_embeddings" else 0
        # An own table: these counts never share rows with codes. Row 0 marks the last frame.
        self.remaining = nn.Embedding(rows, config.n_embd) if rows else None
        # The clip layout tells the way back to the first frame too: its length is then known.
        self.elapsed = nn.Embedding(rows, config.n_embd) if rows and self._whole else None
        for table in filter(None, (self.remaining, self.elapsed)):
            nn.init.normal_(table.weight, std=0.02)

    @property
    def _whole(self) -> bool:
        return self.config.layout == "clip"

    @torch.no_grad()
    def start(self, codebook: torch.Tensor) -> None:
        """Starts the code embeddings from the codebook `V D`, so that like codes begin alike.

        A random projection of the vectors, scaled to GPT-2's initial deviation of 0.02. Input and
        output share the table, so both know from the first step which codes look the same.
        """
        vectors = codebook.float() - codebook.float().mean(0)
        projected = vectors @ torch.randn(vectors.shape[1], self.table.shape[1])
        self.table.copy_(0.02 * projected / projected.std().clamp_min(1e-9))

    @property
    def table(self) -> torch.Tensor:
        """Code embeddings `V E/merge^2`, input and output in one as in GPT-2."""
        return self.gpt.wte.weight if self.config.merge == 1 else self.codes.weight

    def embed_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `B T N` to positions `B T P E`."""
        (rows, columns), merge = self.config.grid, self.config.merge
        x = nn.functional.embedding(codes, self.table)  # B T N E/mm
        if merge == 1:
            return x
        x = x.unflatten(2, (rows // merge, merge, columns // merge, merge))  # B T r m c m E/mm
        return x.movedim(4, 3).flatten(4, 6).flatten(2, 3)

    def logits(
        self, positions: torch.Tensor, sources: list[torch.Tensor], progress: torch.Tensor
    ) -> torch.Tensor:
        """Positions `B T P E` to logits `B T N V`.

        sources: codes `B T N` that may be copied; progress: where in its clip the predicted frame
        stands, `B T` in (0, 1).
        """
        logits = self._apart(positions) @ self.table.T
        if not self.config.copying:
            return logits
        gates = self._apart(self.gates(positions))  # B T N S
        bias, slope = self.prior
        gates = gates + (bias + slope * (2 * progress - 1)[..., None])[:, :, None]  # B T 1 S
        return logits.scatter_add(3, torch.stack(sources, -1), gates.to(logits.dtype))

    def _apart(self, positions: torch.Tensor) -> torch.Tensor:
        """What positions hold for their tokens, `B T P (mm F)`, to the tokens: `B T N F`."""
        (rows, columns), merge = self.config.grid, self.config.merge
        if merge == 1:
            return positions
        x = positions.unflatten(3, (merge, merge, -1))  # B T P m m F
        x = x.unflatten(2, (rows // merge, columns // merge)).movedim(4, 3)  # B T r m c m F
        return x.flatten(4, 5).flatten(2, 4)

    def forward(
        self, frames: torch.Tensor, last: torch.Tensor, n_frames: torch.Tensor, start: int = 0
    ) -> torch.Tensor:
        """Logits of the frames after each of `frames`: `B T N V`, computed from `B (1+T)P E`.

        frames: codes `B T N` of the frames start, start+1, ...; last: `B N`; n_frames: `B`, the
        clips' lengths. In the layout `windowed` all T frames are the window, and only the logits
        after its last frame are given: `B 1 N V`.
        """
        self._check(frames)
        inputs = self._embed(frames, last, n_frames, start)  # B (1+T)P E
        hidden = self.gpt(inputs_embeds=inputs, position_ids=self._positions(frames.shape[1]))
        hidden = hidden.last_hidden_state.unflatten(1, (-1, self.config.positions_per_frame))
        i = start + 1 + torch.arange(frames.shape[1], device=frames.device)  # predicted frames
        progress = i[None] / (n_frames[:, None] - 1)  # B T
        if self.config.layout == "windowed":
            sources = [frames[:, -1:], last[:, None]]
            return self.logits(hidden[:, -1:], sources, progress[:, -1:])
        ends = [end[:, None].expand_as(frames) for end in (last, frames[:, 0])]
        return self.logits(hidden[:, 1:], [frames, *ends], progress)

    def begin(self, last: torch.Tensor, n_frames: torch.Tensor) -> "Cache":
        """Clip layout: the keys and values of the last frame, which every frame attends to."""
        cache = Cache(self, last, n_frames)
        cache.feed(last[:, None], last=True)
        return cache

    def _check(self, frames: torch.Tensor) -> None:
        assert frames.dim() == 3 and frames.shape[2] == self.config.tokens_per_frame, frames.shape
        if self.config.layout == "windowed":
            assert frames.shape[1] <= self.config.n_frames_before, frames.shape

    def _embed(
        self, frames: torch.Tensor, last: torch.Tensor, n_frames: torch.Tensor, start: int
    ) -> torch.Tensor:
        codes = torch.cat([last[:, None], frames], 1)  # B 1+T N
        embedded = self.embed_codes(codes)  # B 1+T P E
        i = start + 1 + torch.arange(frames.shape[1], device=frames.device)
        left = remaining(n_frames[:, None], i[None])  # B T
        left = torch.cat([torch.zeros_like(left[:, :1]), left], 1)  # B 1+T
        return self._mark(embedded, left, n_frames).flatten(1, 2)

    def _mark(
        self, embedded: torch.Tensor, left: torch.Tensor, n_frames: torch.Tensor
    ) -> torch.Tensor:
        """Adds each frame's place in the clip to its positions. `B T P E`, `B T`, `B`.

        `left` is what remains when the frame after it is predicted, 0 for the last frame.
        """
        if self.remaining is None:
            return embedded
        # A clip longer than any in training counts down from the largest number that was trained.
        largest = self.config.max_frames - 1
        embedded = embedded + self.remaining(left.clamp(0, largest))[:, :, None]
        if self.elapsed is None:
            return embedded
        gone = remaining(n_frames[:, None], left)  # the predicted frame's number; n-1 for the last
        return embedded + self.elapsed(gone.clamp(0, largest))[:, :, None]

    def _positions(self, frames: int) -> torch.Tensor:
        count, device = self.config.positions_per_frame, self.gpt.wpe.weight.device
        if self.config.layout == "windowed":
            return torch.arange((frames + 1) * count, device=device)[None]
        place = torch.arange(count, device=device)
        return torch.cat([place + count, place.repeat(frames)])[None]


def _prior(config: GptConfig) -> torch.Tensor:
    """Gates of the sources before training, bias and slope over the clip: `2 S`."""
    hold = math.log(HOLD_AT_START / (1 - HOLD_AT_START) * (config.num_embeddings - 1))
    if config.layout == "windowed":  # frame before, last
        return torch.tensor([[hold, 0.0], [0.0, 0.0]])
    # frame before, last, first
    return torch.tensor([[0.0, hold, hold], [0.0, CHANGE_AT_START, -CHANGE_AT_START]])


class Cache:
    """Keys and values of a clip that is being drawn, frame by frame (clip layout)."""

    def __init__(self, model: FrameGpt, last: torch.Tensor, n_frames: torch.Tensor) -> None:
        from transformers import DynamicCache

        self.model, self.n_frames = model, n_frames
        self.keys_values = DynamicCache()
        self.ends = [last[:, None]]  # and, once it was fed, the first frame: codes B 1 N
        self.fed = 0  # frames, the last one not counted

    def feed(self, frame: torch.Tensor, last: bool = False) -> torch.Tensor | None:
        """Codes `B 1 N` of the next frame; gives the logits of the frame after it, `B N V`.

        The clip's last frame is fed first, and gives none.
        """
        model, places = self.model, self.model.config.positions_per_frame
        self.fed += not last
        if self.fed == 1:
            self.ends.append(frame)
        left = torch.zeros_like(self.n_frames) if last else remaining(self.n_frames, self.fed)
        embedded = model._mark(model.embed_codes(frame), left[:, None], self.n_frames)
        embedded = embedded.flatten(1, 2)  # B P E
        positions = model._positions(1)[:, :places] if last else model._positions(1)[:, places:]
        out = model.gpt(
            inputs_embeds=embedded,
            position_ids=positions,
            past_key_values=self.keys_values,
            use_cache=True,
        )
        if last:
            return None
        progress = self.fed / (self.n_frames[:, None] - 1)  # B 1
        sources = [frame, *self.ends]
        return model.logits(out.last_hidden_state[:, None], sources, progress)[:, 0]


def _gpt2(config: GptConfig) -> nn.Module:
    repair_torchvision()
    from transformers import AttentionInterface, GPT2Config, GPT2Model

    AttentionInterface.register(NAME, frame_window_attention)
    hf_config = GPT2Config(
        vocab_size=config.num_embeddings if config.merge == 1 else 1,  # 1: an unused row
        n_positions=config.positions,
        n_embd=config.n_embd,
        n_layer=config.n_layer,
        n_head=config.n_head,
        embd_pdrop=config.embd_pdrop,
        resid_pdrop=config.resid_pdrop,
        attn_pdrop=config.attn_pdrop,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation=NAME if config.layout == "clip" else "sdpa",
        use_cache=False,
    )
    hf_config.positions_per_frame = config.positions_per_frame
    hf_config.n_frames_before = config.n_frames_before
    return GPT2Model(hf_config)
