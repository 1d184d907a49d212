"""Clips as token ids, for training the transformer: batches, token noise, masked tokens.

A model that only ever read true frames drifts on its own ones. Beside reading its own predictions
(thesis, section 3.3.1) it may read true frames of which some tokens are wrong. That costs no
generation, and every frame of a clip still trains in one pass.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pipeline import io
from pipeline.errors import UserError
from pipeline.frames import to_float
from pipeline.models.gpt.model import Conditioning, GptConfig
from pipeline.models.gpt.sequence import truncated_frames
from pipeline.models.vqgan.previous import PreviousTokenizer
from pipeline.training.mapped import MappedArray
from pipeline.training.sequence_dataset import SequenceSet

SHORT_SHARE = 0.85  # of the batches of parts that predict one frame of each
GROWING = 0.6  # share of the epochs in which their parts grow to whole sequences


class TokenBatch(NamedTuple):
    """B clips, padded with zeros after each clip's end."""

    ids: Tensor  # B T N
    n_frames: Tensor  # B
    last: Tensor  # B N
    features: Tensor | None  # float32 B T N C, None without context

    @property
    def n_targets(self) -> Tensor:
        """Frames to predict of each clip, `B`: all inner ones, or as many as `ids` has."""
        return (self.n_frames - 2).clamp(max=self.ids.shape[1] - 2)

    @property
    def cond(self) -> Conditioning:
        return Conditioning(self.last, self.n_frames, self.features)


class TokenSet:
    """Clips of one split, mapped from a file: 4 bytes a token, 2 for each of its context channels.

    A clip may have several rows, its variants: mirrored (`flipped`) and played backwards
    (`reversed`).
    """

    def __init__(self, folder: Path, split: str, config: GptConfig, method: str) -> None:
        """method: padding | truncation, of clips of different length in a batch."""
        self.method, self.names = method, []
        n, channels = config.tokens_per_frame, config.context_channels
        lengths, all_ids, all_features = [], MappedArray(), MappedArray()
        for row in io.read_rows(folder / f"{split}.parquet", io.TOKENS):
            variant = " flipped" * row.flipped + " reversed" * row.reversed
            self.names.append(f"clip {row.clip_id}{variant}")
            ids, values = np.asarray(row.tokens, np.int32), np.frombuffer(row.features, np.float16)
            if (
                len(ids) != row.n_frames * n
                or int(ids.max()) >= config.num_embeddings
                or len(values) != len(ids) * channels
            ):
                raise UserError(
                    f"clip {row.clip_id} has {len(ids) / row.n_frames:g} tokens a frame up to id "
                    f"{int(ids.max())} with {len(values) / len(ids):g} context channels, "
                    f"expected {n} tokens below {config.num_embeddings} with {channels}: tokens "
                    "and tokenizer do not belong together; run `dvc repro token_precompute`"
                )
            lengths.append(row.n_frames)
            all_ids.append(ids)
            all_features.append(values)
        self.clips = all_ids.tensor(np.int32, -1, n).split(lengths)  # T N each
        self.features = all_features.tensor(np.float16, sum(lengths), n, channels).split(lengths)
        self.has_context = channels > 0
        self.longest = max(lengths, default=0)

    def __len__(self) -> int:
        return len(self.clips)

    def counts(self, num_embeddings: int) -> Tensor:
        """How often each token id is to be predicted, `V`: both given frames do not count."""
        counts = torch.zeros(num_embeddings, dtype=torch.int64)
        for clip in self.clips:
            counts += clip[1:-1].flatten().bincount(minlength=num_embeddings)
        return counts

    def batch(
        self, rows: Sequence[int], device: torch.device, generator: torch.Generator
    ) -> TokenBatch:
        """generator: on the CPU, for truncation."""
        clips = [self.clips[row] for row in rows]
        features = [self.features[row] for row in rows]
        if self.method == "truncation":
            lengths = [len(clip) for clip in clips]
            kept = truncated_frames(lengths, self.longest, generator)
            clips = [clip[frames] for clip, frames in zip(clips, kept, strict=True)]
            features = [clip[frames] for clip, frames in zip(features, kept, strict=True)]
        n_frames = torch.tensor([len(clip) for clip in clips])
        last = torch.stack([clip[-1] for clip in clips])
        return TokenBatch(
            pad_sequence(clips, batch_first=True).long().to(device),
            n_frames.to(device),
            last.long().to(device),
            pad_sequence(features, batch_first=True).to(device).float()
            if self.has_context
            else None,
        )


class PartSet:
    """Parts of sequences, encoded when a batch is asked for: with the previous frame as context.

    Of a part the first few frames are to be predicted. The way to a far last frame is what is hard
    to learn, and the first frame decides on it. So parts are short at first, and grow to whole
    sequences during the first GROWING of all epochs. Most batches predict one frame of each part,
    the others `most_targets`: one more than the frames before that generation has.
    """

    def __init__(
        self, sequences: SequenceSet, tokenizer: PreviousTokenizer, n_epochs: int, most_targets: int
    ) -> None:
        self.sequences, self.tokenizer, self.n_epochs = sequences, tokenizer, n_epochs
        self.most_targets = most_targets

    def __len__(self) -> int:
        return len(self.sequences)

    def batch(
        self, rows: Sequence[int], device: torch.device, epoch: int, step: int | None
    ) -> TokenBatch:
        """Ids `B K+2 N`: of the part's first frame, the K to predict, and its last.

        How many are predicted hangs on the step, and each part on its row: so batches of several
        processes are alike. step: None for validation, whose parts are the same in every epoch.
        """
        seed, grown, targets = self.sequences.seed, 1.0, self.most_targets  # K
        if step is not None:
            grown = min(1.0, (epoch + 1) / (GROWING * self.n_epochs))
            if np.random.default_rng((seed, step, 2)).random() < SHORT_SHARE:
                targets = 1
        shortest = targets + 2
        images, lengths = [], []
        for row in rows:
            random = np.random.default_rng((seed, epoch if step is not None else 0, row, 4))
            total = self.sequences.n_frames(row)
            length = longest = shortest + round(grown * (total - shortest))
            if random.random() < 0.5:
                length = int(random.integers(shortest, longest + 1))
            start = int(random.integers(total - length + 1))
            numbers = [*range(start, start + targets + 1), start + length - 1]
            if random.random() < 0.5:  # backwards, as the second half of a clip is drawn
                numbers = [2 * start + length - 1 - number for number in numbers]
            images.append(self.sequences.frames(row, epoch, numbers))
            lengths.append(length)
        images = to_float(torch.from_numpy(np.stack(images)).flatten(0, 1).to(device))
        images = images.unflatten(0, (len(rows), -1))  # B K+2 3 H W
        n_frames = torch.tensor(lengths, device=device)
        ids, features = self.tokenizer.encode_sequence(images, n_frames)
        return TokenBatch(ids, n_frames, ids[:, -1], features)


def count_context_channels(folder: Path, tokens_per_frame: int) -> int:
    """C, from the first clip of `train.parquet`: 0 where the tokenizer has no context."""
    row = next(io.read_rows(folder / "train.parquet", io.TOKENS), None)
    return 0 if row is None else len(row.features) // (2 * row.n_frames * tokens_per_frame)


def add_token_noise(
    ids: Tensor, n_frames: Tensor, max_rate: float, generator: torch.Generator
) -> Tensor:
    """The frames 0..T-3 of `B T N`, up to a share `max_rate` of each clip's tokens wrong.

    Half of the wrong tokens are random ids, half those that another frame of the clip has at that
    place, as if a part moved too early or too late. The first frame stays: it is given, and true.
    generator: on the CPU.
    """
    inputs = ids[:, :-2]
    rate = max_rate * torch.rand(len(inputs), 1, 1, generator=generator)
    wrong = torch.rand(inputs.shape, generator=generator) < rate
    wrong[:, 0] = False
    number = (torch.rand(inputs.shape, generator=generator) * 2**24).long().to(inputs.device)
    from_clip = torch.rand(inputs.shape, generator=generator) < 0.5
    other_frame = ids.gather(1, number % n_frames[:, None, None])
    random_id = number % (inputs.max() + 1)  # among the ids that the batch has
    noise = torch.where(from_clip.to(inputs.device), other_frame, random_id)
    return torch.where(wrong.to(inputs.device), noise, inputs)


def mask_tokens(targets: Tensor, mask_id: int, generator: torch.Generator) -> Tensor:
    """Frames `B T N` with a share of their tokens replaced by `mask_id`, for mode `maskgit`.

    The share is cos(pi r / 2) with r uniform, each frame its own (Chang et al., 2022, section 3.1):
    most frames are nearly empty, as generation begins. At least one token is masked.
    """
    share = (0.5 * math.pi * torch.rand(*targets.shape[:2], 1, generator=generator)).cos()
    chance = torch.rand(targets.shape, generator=generator)
    masked = (chance < share) | (chance == chance.amin(-1, keepdim=True))
    return targets.masked_fill(masked.to(targets.device), mask_id)
