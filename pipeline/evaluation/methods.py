"""What is measured on a test clip: the model's in-betweens, the baselines', several samples.

Every method gives a whole clip uint8 `n H W 3` whose frames 0 and n-1 are the given ones, so that
all are scored alike on their inner frames. Three of them say what the networks are worth:
`untrained` is what they start from, `without_codes` is the decoder alone, and `round_trip` the true
inner frames through the tokenizer, as if the transformer made no error.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from pipeline.config import Evaluate
from pipeline.data.datasets import Clip
from pipeline.errors import UserError
from pipeline.evaluation.baselines import load_baselines
from pipeline.evaluation.summary import MODEL, ROUND_TRIP, UNTRAINED, WITHOUT_CODES
from pipeline.inference.inbetweener import InBetweener, NotFinite


@dataclass(frozen=True)
class GeneratedClip:
    """All that is generated for one true clip."""

    clip: Clip
    methods: dict[str, torch.Tensor]  # name to uint8 n H W 3
    samples: list[torch.Tensor]  # uint8 n H W 3, sampled from the same ends


class Methods:
    """The model and the baselines that `evaluate.baselines` names."""

    def __init__(self, model: InBetweener, settings: Evaluate, seed: int) -> None:
        self.model, self.settings = model, settings
        self.decoding = settings.decoding
        self.generator = torch.Generator().manual_seed(seed)
        self.baselines = load_baselines(settings.baselines, model.device)

    def generate(self, batch: Sequence[Clip], n_samples: int) -> Iterator[GeneratedClip]:
        """One clip after the other; the model generates all of the batch at once."""
        first = torch.stack([clip.frames[0] for clip in batch])  # B H W 3
        last = torch.stack([clip.frames[-1] for clip in batch])
        ends = (first, last, [len(clip.frames) for clip in batch])
        hot = {"temperature": self.decoding.temperature or 1.0}
        sampled = self.decoding.model_copy(update=hot)
        wanted = self.settings.baselines if self.model.has_context else ()
        try:
            by_model = {MODEL: self.model.generate(*ends, self.decoding, self.generator)}
            if UNTRAINED in wanted:
                by_model[UNTRAINED] = self.model.untrained(*ends)
            if WITHOUT_CODES in wanted:
                by_model[WITHOUT_CODES] = self.model.without_codes(*ends)
            samples = [
                self.model.generate(*ends, sampled, self.generator) for _ in range(n_samples)
            ]
        except NotFinite as error:
            names = ", ".join(clip.clip_id for clip in batch)
            raise UserError(f"generation of {names}: {error}") from None
        for k, clip in enumerate(batch):
            inner = {name: method(clip.frames) for name, method in self.baselines.items()}
            if ROUND_TRIP in self.settings.baselines:
                inner[ROUND_TRIP] = self.model.round_trip(clip.frames)[0]
            keyframes = clip.frames[:1], clip.frames[-1:]
            methods = {name: clips[k] for name, clips in by_model.items()}
            for name, frames in inner.items():
                methods[name] = torch.cat([keyframes[0], frames, keyframes[1]])
            yield GeneratedClip(clip, methods, [clips[k] for clips in samples])
