"""From hidden states to logits: the table of codes, and copies of codes that are there already.

Nine codes in ten of a cartoon stay where they are from one frame to the next. With `copying` a
small head adds to the logits of the codes that stand at the same place in the frame before, in the
last frame, in the layout `clip` in the first one, and, with `moved_keys`, in both given frames as
they look when they are moved along their optical flow to the frame's time: a pointer head as in See
et al., Get To The Point (2017, arXiv:1704.04368), with a gate a source.

It starts from what needs no learning: from the moved frames where there are any, else in the
layout `clip` from holding the nearer given frame with a soft change in the middle, in the layout
`windowed` from holding the frame before. Training goes on from there. Letters as in `model`.
"""

import math
from typing import NamedTuple

import torch
from torch import nn

from pipeline.gpt2.config import GptConfig

HOLD_AT_START = 0.9  # chance of the code that is already there, before training
CHANGE_AT_START = 3.0  # logits by which the nearer given frame is preferred at the clip's ends
KEYS_BELOW_MOVED = 3.0  # logits by which a given frame at rest is behind the moved ones at first
LAST, MOVED = 1, -1  # place of the last frame, and of the moved ones, among the sources


class Sources(NamedTuple):
    """What may be copied, and when."""

    codes: list[torch.Tensor]  # B T N each: the frame before, the last, the first, the moved one
    progress: torch.Tensor  # B T in (0, 1): where in its clip the predicted frame stands
    hide: torch.Tensor | None  # bool B: clips that are not told their last frame


class Head(nn.Module):
    """Logits of the codes of whole frames, or of one position."""

    def __init__(self, config: GptConfig, back: torch.Tensor) -> None:
        """back: `N`, where each token stands among those of the positions, one after the other."""
        super().__init__()
        self.config = config
        self.register_buffer("back", back, persistent=False)
        if config.copying:
            self.gates = nn.Linear(config.n_embd, config.sources * config.merge**2)
            nn.init.zeros_(self.gates.weight)
            nn.init.zeros_(self.gates.bias)
            self.prior = nn.Parameter(_prior(config))

    def forward(
        self, positions: torch.Tensor, table: torch.Tensor, sources: Sources
    ) -> torch.Tensor:
        """Positions `B T P E` and the table of codes `V E/mm` to logits `B T N V`."""
        logits = self._apart(positions) @ table.T
        if not self.config.copying:
            return logits
        return self._with_copies(logits, self._apart(self.gates(positions)), sources)

    def of_position(
        self, hidden: torch.Tensor, table: torch.Tensor, sources: Sources
    ) -> torch.Tensor:
        """The same of one position `B 1 E` and its square alone: `B mm V`; codes `B 1 mm`."""
        squares = self.config.merge**2
        logits = hidden.unflatten(2, (squares, -1)) @ table.T  # B 1 mm V
        if self.config.copying:
            gates = self.gates(hidden).unflatten(2, (squares, -1))  # B 1 mm S
            logits = self._with_copies(logits, gates, sources)
        return logits[:, 0]

    def _with_copies(
        self, logits: torch.Tensor, gates: torch.Tensor, sources: Sources
    ) -> torch.Tensor:
        """Logits `B T N V`, gates `B T N S`."""
        bias, slope = self.prior
        lean = bias + slope * (2 * sources.progress - 1)[..., None]  # B T S
        gates = gates + lean[:, :, None]
        if sources.hide is not None:  # a frame that is not known cannot be copied
            known = torch.ones(len(gates), self.config.sources, device=gates.device)
            known[:, LAST] = ~sources.hide
            if self.config.moved_keys:
                known[:, MOVED] = ~sources.hide
            gates = gates * known[:, None, None]
        return logits.scatter_add(3, torch.stack(sources.codes, -1), gates.to(logits.dtype))

    def _apart(self, positions: torch.Tensor) -> torch.Tensor:
        """What positions hold for their tokens, `B T P (mm F)`, to the tokens: `B T N F`."""
        if self.config.merge == 1:
            return positions
        x = positions.unflatten(3, (self.config.merge**2, -1)).flatten(2, 3)  # B T N F
        return x[:, :, self.back]


def _prior(config: GptConfig) -> torch.Tensor:
    """Gates of the sources before training, bias and slope over the clip: `2 S`."""
    hold = math.log(HOLD_AT_START / (1 - HOLD_AT_START) * (config.num_embeddings - 1))
    at_rest = hold - KEYS_BELOW_MOVED if config.moved_keys else hold
    if config.whole:
        before, last, first = (0.0, 0.0), (at_rest, CHANGE_AT_START), (at_rest, -CHANGE_AT_START)
        gates = [before, last, first]
    else:
        gates = [(hold, 0.0), (0.0, 0.0)]  # frame before, last
    if config.moved_keys:
        gates.append((hold, 0.0))
    return torch.tensor(gates).T.contiguous()
