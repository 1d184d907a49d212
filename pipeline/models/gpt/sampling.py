"""Generates a clip frame by frame as token ids: each frame is read by the next one.

Token ids are greedy (temperature 0) or sampled, from the k most likely ones (`top_k`) or from the
fewest that make up a share p (`top_p`: Holtzman et al., 2020, arXiv:1904.09751). A tokenizer with
context can do with only some of a frame's tokens: greedy ones that are less likely than
`min_confidence` become the null code, id V. A full-clip sequence keeps keys and values of the last
frame, the first one and the window of previous frames: time and memory for a frame do not grow with
the clip.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.config import Decoding
from pipeline.errors import UserError
from pipeline.models.gpt.model import Conditioning, FrameGpt, GptConfig

GREEDY = Decoding(
    mode="auto",  # parallel | maskgit | auto: what the model was trained for
    steps=8,  # of maskgit, a frame
    temperature=0.0,
    top_k=0,  # all token ids
    top_p=1.0,  # all token ids
    min_confidence=0.0,  # 0: no token id becomes the null code
)


def resolve_mode(mode: str, config: GptConfig) -> str:
    """The mode in which a model generates; UserError where it was not trained for it."""
    if mode == "auto":
        return config.mode
    if mode not in ("parallel", config.mode):
        raise UserError(
            f"mode {mode}: the transformer was trained with train.mode = {config.mode}; train it "
            f"with -S train.mode={mode} -S train.sequence=full_clip, or take mode parallel"
        )
    return mode


@torch.no_grad()
def generate(
    model: FrameGpt,
    first_ids: Tensor,
    cond: Conditioning,
    decoding: Decoding = GREEDY,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Yields token ids `B N` of the frames 1, 2, ..., max(n_frames) - 2.

    first_ids: `B N`; cond.n_frames: each at least 3. Frames past the end of a shorter clip of the
    batch are meaningless. generator: on the CPU, for a temperature above 0. UserError where the
    model was not trained for `decoding.mode`.
    """
    assert int(cond.n_frames.min()) >= 3, cond.n_frames
    config = model.config
    mode = resolve_mode(decoding.mode, config)
    generator = generator or torch.Generator().manual_seed(0)
    n_steps, n_positions = int(cond.n_frames.max()) - 2, config.positions_per_frame
    if not config.full_clip:
        frames = first_ids[:, None]  # B T N
        for i in range(n_steps):
            window = frames[:, -config.window :]
            logits = model(window, cond, start=i + 1 - window.shape[1])[:, 0]  # B N V
            ids = sample(logits, decoding, generator)
            frames = torch.cat([frames, ids[:, None]], 1)
            yield ids
        return

    cache, n_cached = model.gpt.new_cache(), 0  # blocks: last, first, window

    def read(block: Tensor) -> Tensor:
        """A block `B P E` after the cached ones, which it sees all; gives hidden states `B P E`."""
        n_seen = (n_cached + 1) * n_positions
        mask = torch.ones(n_positions, n_seen, dtype=torch.bool, device=block.device)
        return model.backbone(block, mask, cache)

    read(model.embed_last(cond)[:, 0])
    n_cached, ids = 1, first_ids
    for i in range(n_steps):
        if n_cached == 2 + config.window:  # the oldest frame leaves the window
            model.gpt.forget(cache, 2 * n_positions, 3 * n_positions)
            n_cached -= 1
        block = model.embed_frames(ids[:, None], i, cond)  # B 1 P E
        hidden = read(block[:, 0])
        n_cached += 1
        if mode == "parallel":
            logits = model.logits(hidden)
            ids = sample(logits, decoding, generator)
            yield confident(ids, logits, decoding)
            continue
        partial = torch.full_like(ids, config.num_embeddings)
        for step in range(1, decoding.steps + 1):
            query = model.embed_query(block, partial[:, None])[:, 0]  # B P E
            logits = model.logits(read(query))
            model.gpt.forget(cache, n_cached * n_positions, (n_cached + 1) * n_positions)
            partial = unmask(partial, logits, step, decoding, generator)
        ids = partial
        yield ids


@torch.no_grad()
def predict(
    model: FrameGpt,
    frames: Tensor,
    cond: Conditioning,
    decoding: Decoding = GREEDY,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Token ids `B N` of the frame after `frames`, the ids `B T N` of the frames 0..T-1.

    Of a full-clip sequence. For a model whose context features come of frames that it drew itself:
    they change from frame to frame, so nothing is kept.
    """
    generator = generator or torch.Generator().manual_seed(0)
    if resolve_mode(decoding.mode, model.config) == "parallel":
        return sample(model(frames, cond)[:, -1], decoding, generator)
    partial = torch.full_like(frames, model.config.num_embeddings)
    for step in range(1, decoding.steps + 1):
        _, logits = model.complete(frames, cond, partial)  # B T N V
        partial[:, -1] = unmask(partial[:, -1], logits[:, -1], step, decoding, generator)
    return partial[:, -1]


def unmask(
    partial: Tensor, logits: Tensor, step: int, decoding: Decoding, generator: torch.Generator
) -> Tensor:
    """One step of maskgit: the most confident of the unknown tokens become known.

    partial: `B N` in [0, V], V: unknown; logits `B N V`. After step s of S, all but
    N cos(pi s / 2S) tokens are known. At a temperature the confidence is noisy, less in each step.
    """
    n_tokens, vocabulary = logits.shape[1:]
    ids = sample(logits, decoding, generator)
    confidence = logits.float().log_softmax(-1).gather(2, ids[..., None])[..., 0]  # B N
    if decoding.temperature:
        uniform = torch.rand(confidence.shape, generator=generator).clamp_(1e-9, 1 - 1e-7)
        gumbel = -(-uniform.log()).log()
        scale = decoding.temperature * (1 - step / decoding.steps)
        confidence = confidence + scale * gumbel.to(confidence.device)
    unknown = partial == vocabulary
    n_known = n_tokens - int(n_tokens * math.cos(0.5 * math.pi * step / decoding.steps) + 1e-6)
    chosen = confidence.masked_fill(~unknown, torch.inf).topk(n_known, -1).indices
    new = torch.zeros_like(unknown).scatter(1, chosen, True) & unknown
    return torch.where(new, ids, partial)


def confident(ids: Tensor, logits: Tensor, decoding: Decoding) -> Tensor:
    """Greedy ids `B N` with V in place of those less likely than `min_confidence`; `B N V`."""
    if decoding.temperature or not decoding.min_confidence:
        return ids
    probability = logits.float().softmax(-1).gather(2, ids[..., None])[..., 0]
    return ids.masked_fill(probability < decoding.min_confidence, logits.shape[-1])


def sample(logits: Tensor, decoding: Decoding, generator: torch.Generator) -> Tensor:
    """Logits `B N V` to token ids `B N`, on the device of the logits."""
    if decoding.temperature == 0:
        return logits.argmax(-1)
    scaled = logits.float().cpu() / decoding.temperature  # where the generator is
    probabilities = filter_logits(scaled, decoding.top_k, decoding.top_p).softmax(-1)
    ids = torch.multinomial(probabilities.flatten(0, 1), 1, generator=generator)
    return ids.view(logits.shape[:2]).to(logits.device)


def filter_logits(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Logits `... V` with -inf where a rule leaves a token id out; the most likely one stays."""
    if 0 < top_k < logits.shape[-1]:
        smallest = logits.topk(top_k, -1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if top_p < 1:
        ordered, order = logits.sort(-1, descending=True)
        probabilities = ordered.softmax(-1)
        more_likely = probabilities.cumsum(-1) - probabilities  # share of all more likely ids
        out = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, more_likely >= top_p)
        logits = logits.masked_fill(out, -torch.inf)
    return logits
