"""Drawing a clip frame by frame in token space: each frame is read by the next one as codes."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from pipeline.gpt2.model import FrameGpt

Pick = Callable[[torch.Tensor], torch.Tensor]  # logits B N V -> codes B N


class Drawn(NamedTuple):
    codes: torch.Tensor  # B N
    logits: torch.Tensor  # B N V, from which the codes were picked


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    return logits.argmax(-1)


def at_temperature(temperature: float, generator: torch.Generator) -> Pick:
    """Draws codes from the softened distribution; 0 takes the likeliest."""
    if temperature == 0:
        return likeliest

    def pick(logits: torch.Tensor) -> torch.Tensor:
        chances = torch.softmax(logits.float().cpu() / temperature, -1)
        codes = torch.multinomial(chances.flatten(0, 1), 1, generator=generator)
        return codes.view(chances.shape[:2]).to(logits.device)

    return pick


@torch.no_grad()
def draw(
    model: FrameGpt,
    first: torch.Tensor,
    last: torch.Tensor,
    n_frames: torch.Tensor,
    pick: Pick = likeliest,
) -> Iterator[Drawn]:
    """Yields the frames 1, 2, ..., max(n_frames) - 2 of clips with the given ends.

    first, last: codes `B N`; n_frames: `B`, each at least 3. Frames past the end of a shorter clip
    of the batch are meaningless.
    """
    assert int(n_frames.min()) >= 3, n_frames
    steps = int(n_frames.max()) - 2
    if model.config.layout == "clip":
        cache = model.begin(last, n_frames)
        codes = first
        for _ in range(steps):
            logits = cache.feed(codes[:, None])
            codes = pick(logits)
            yield Drawn(codes, logits)
        return
    frames = first[:, None]  # B T N
    for i in range(steps):
        seen = frames[:, -model.config.n_frames_before :]
        start = i + 1 - seen.shape[1]
        logits = model(seen, last, n_frames, start)[:, 0]
        codes = pick(logits)
        frames = torch.cat([frames, codes[:, None]], 1)
        yield Drawn(codes, logits)
