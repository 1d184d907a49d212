"""A clip that is being drawn, with the keys and values of what is there: the clip layout's cache.

Equal to `FrameGpt.forward` and `FrameGpt.complete` over the whole clip, frame by frame.
"""

import torch

from pipeline.gpt2.cache import WindowCache
from pipeline.gpt2.model import FrameGpt, Given


class Rollout:
    """Reads the frames of B clips in order, and gives the logits of what comes next."""

    def __init__(self, model: FrameGpt, given: Given) -> None:
        self.model, self.given = model, given
        self.cache = WindowCache(model.config.n_layer, model.config.window)
        self.read = 0  # frames
        key = model.embed_key(given.last, given.n_frames, given.hide)
        self._through(key.flatten(1, 2), "frame")

    def feed(self, frame: torch.Tensor) -> torch.Tensor:
        """Reads the next frame, codes `B N`; gives the logits of the one after it, `B N V`."""
        before = frame[:, None]
        if not self.read:
            self.first = before  # B 1 N
        self.base = self.model.read(before, self.read, self.given)  # B 1 P E
        self.sources = self.model.sources(before, self.first, self.read, self.given)
        self.read += 1
        return self._logits(self.base, "frame")

    def complete(self, drawn: torch.Tensor) -> torch.Tensor:
        """Logits `B N V` of the frame after those read, of which `drawn`, `B N`, is there."""
        return self._logits(self.base + self.model.embed_drawing(drawn[:, None]), "nothing")

    def position(self, place: int, drawn: torch.Tensor) -> torch.Tensor:
        """Logits `B mm V` of the tokens at a position, after those before it were drawn.

        drawn: codes `B N`, read are those at position place - 1. Places come in order from 0.
        """
        model, size = self.model, self.model.config.merge**2
        here = model.order[place * size : (place + 1) * size]
        if place:
            square = drawn[:, model.order[(place - 1) * size : place * size]]  # B mm
            before = model.drawing(model.table[square].flatten(1))
        else:
            before = model.nothing.expand(len(drawn), -1)
        hidden = self._through(self.base[:, :, place] + before[:, None], "position")  # B 1 E
        copied = [codes[..., here] for codes in self.sources.codes]
        return model.head.of_position(hidden, model.table, self.sources._replace(codes=copied))

    def _logits(self, block: torch.Tensor, keep: str) -> torch.Tensor:
        """Of a block `B 1 P E`: `B N V`."""
        hidden = self._through(block.flatten(1, 2), keep)
        return self.model.head(hidden[:, None], self.model.table, self.sources)[:, 0]

    def _through(self, inputs: torch.Tensor, keep: str) -> torch.Tensor:
        """`B S E` through the trunk."""
        self.cache.keep = keep
        positions = torch.zeros(1, inputs.shape[1], dtype=torch.int64, device=inputs.device)
        return self.model.gpt(inputs, positions, cache=self.cache)
