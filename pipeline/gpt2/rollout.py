"""A clip that is being drawn, with the keys and values of what is there: the clip layout's cache.

Equal to `FrameGpt.forward` and `FrameGpt.complete` over the whole clip, frame by frame.
"""

import torch

from pipeline.gpt2.cache import WindowCache
from pipeline.gpt2.model import FrameGpt
from pipeline.gpt2.sequence import remaining


class Rollout:
    """Reads the frames of B clips in order, and gives the logits of what comes next."""

    def __init__(
        self,
        model: FrameGpt,
        last: torch.Tensor,
        n_frames: torch.Tensor,
        hide: torch.Tensor | None = None,
    ) -> None:
        """last: codes `B N`; n_frames: `B`; hide: as in `FrameGpt.forward`."""
        self.model, self.last, self.n_frames, self.hide = model, last[:, None], n_frames, hide
        self.cache = WindowCache(model.config.n_layer, model.config.window)
        self.first = self.before = last[:, None]  # codes B 1 N, until there are others
        self.read = 0  # frames
        self._pass(model.embed_key(last, n_frames, hide), "frame")

    def feed(self, frame: torch.Tensor) -> torch.Tensor:
        """Reads the next frame, codes `B N`; gives the logits of the one after it, `B N V`."""
        self.before = frame[:, None]
        if not self.read:
            self.first = self.before
        self.read += 1
        self.base = self._marked(self.model.embed_codes(self.before))  # B 1 P E
        hidden = self._pass(self.base, "frame")
        return self.model.logits(hidden[:, None], self._sources(), self._progress(), self.hide)[
            :, 0
        ]

    def complete(self, drawn: torch.Tensor) -> torch.Tensor:
        """Logits `B N V` of the frame after those read, of which `drawn`, `B N`, is there."""
        drawing = self.base + self.model.embed_drawing(drawn[:, None])
        hidden = self._pass(drawing, "nothing")
        return self.model.logits(hidden[:, None], self._sources(), self._progress(), self.hide)[
            :, 0
        ]

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
        inputs = self.base[:, :, place] + before[:, None]  # B 1 E
        hidden = self._through(inputs, "position")
        sources = [source[..., here] for source in self._sources()]
        return model.square_logits(hidden, sources, self._progress(), self.hide)

    def _marked(self, embedded: torch.Tensor) -> torch.Tensor:
        left = remaining(self.n_frames, self.read)
        return self.model.place(self.model.mark(embedded, left[:, None], self.n_frames))

    def _pass(self, blocks: torch.Tensor, keep: str) -> torch.Tensor:
        """A block `B 1 P E` through the trunk: `B P E`."""
        return self._through(blocks.flatten(1, 2), keep)

    def _through(self, inputs: torch.Tensor, keep: str) -> torch.Tensor:
        self.cache.keep = keep
        positions = torch.zeros(1, inputs.shape[1], dtype=torch.int64, device=inputs.device)
        return self.model.gpt(inputs, positions, cache=self.cache)

    def _sources(self) -> list[torch.Tensor]:
        return [self.before, self.last, self.first]

    def _progress(self) -> torch.Tensor:
        return self.read / (self.n_frames[:, None] - 1)  # B 1
