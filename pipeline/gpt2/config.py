"""What rebuilds the transformer: sizes, layout, window, and which modes it was trained for."""

from dataclasses import asdict, dataclass

from pipeline.params import Params

SIZES = {  # layers, heads, width
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
}
GPT2_POSITIONS = 1024  # rows of the published position tables
MODES = {  # train.mode -> modes that such a model draws in
    "seed": ("seed",),
    "maskgit": ("seed", "maskgit"),
    "autoregressive": ("seed", "autoregressive"),
    "all": ("seed", "maskgit", "autoregressive"),
}


@dataclass(frozen=True)
class GptConfig:
    """Everything that rebuilds the network."""

    layout: str  # clip | windowed
    mode: str  # key of MODES
    n_frames_before: int | None  # M; None: all
    plain: bool  # our own GPT instead of transformers' GPT-2
    n_layer: int
    n_head: int
    n_embd: int
    embd_pdrop: float
    resid_pdrop: float
    attn_pdrop: float
    remaining_frames_method: str  # own_embeddings | concat | token_type_ids | none
    copying: bool
    moved_keys: bool  # whether it is told both given frames as moved to the predicted one's time
    merge: int  # tokens a side of the square that shares a position
    key_dropout: bool  # whether the last frame was hidden now and then, as guidance needs
    num_embeddings: int  # V
    grid: tuple[int, int]  # tokens of a frame, rows and columns
    max_frames: int  # longest clip trained on

    @classmethod
    def from_params(cls, settings: Params) -> "GptConfig":
        gpt, train = settings.transformer, settings.train
        sizes = SIZES.get(gpt.transformer_type, (gpt.n_layer, gpt.n_head, gpt.n_embd))
        return cls(
            layout=train.layout,
            mode=train.mode,
            n_frames_before=None if train.n_frames_before == "all" else train.n_frames_before,
            plain=gpt.transformer_type == "plain",
            n_layer=sizes[0],
            n_head=sizes[1],
            n_embd=sizes[2],
            embd_pdrop=gpt.embd_pdrop,
            resid_pdrop=gpt.resid_pdrop,
            attn_pdrop=gpt.attn_pdrop,
            remaining_frames_method=gpt.remaining_frames_method,
            copying=gpt.copying,
            moved_keys=gpt.moved_keys,
            merge=gpt.merge,
            key_dropout=train.key_dropout > 0,
            num_embeddings=settings.vqgan.vqvae.num_embeddings,
            grid=settings.grid,
            max_frames=settings.clip_chunk.longest,
        )

    @property
    def modes(self) -> tuple[str, ...]:
        """Modes that it draws in."""
        return MODES[self.mode]

    @property
    def whole(self) -> bool:
        """Whether one pass goes over all frames of a clip."""
        return self.layout == "clip"

    @property
    def tokens_per_frame(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def sources(self) -> int:
        """Frames whose codes may be copied: before, last, (clip layout) first, moved ones."""
        return (3 if self.whole else 2) + self.moved_keys

    @property
    def places(self) -> tuple[int, int]:
        """Positions of a frame, rows and columns."""
        return self.grid[0] // self.merge, self.grid[1] // self.merge

    @property
    def positions_per_frame(self) -> int:
        return self.places[0] * self.places[1]

    @property
    def window(self) -> int:
        """Previous frames that are seen; `all` has no end, in a table it is the longest clip."""
        return self.n_frames_before or (10**9 if self.whole else self.max_frames)

    @property
    def positions(self) -> int:
        """Rows of the position table.

        Windowed: the whole context, or GPT-2's own 1,024 if that is enough. Clip: none is needed,
        positions are told by row, column and the distance to both ends.
        """
        if self.whole:
            return 1
        counter = self.remaining_frames_method == "concat"
        return max(GPT2_POSITIONS, (self.window + 1) * self.positions_per_frame + counter)

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict) -> "GptConfig":
        return cls(**content | {"grid": tuple(content["grid"])})
