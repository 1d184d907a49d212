"""Training of the transformer: cross entropy of the next frame's codes (thesis, section 4.2).

Until epoch `stop_ground_truth_after_epoch` the frames before are the true ones; afterwards they
are the model's own, drawn from the clip's two ends, so that it learns to go on from what it drew.
The codes it drew carry no gradient; the last pass over them does.

Clips differ in length, so a batch shared out over processes gives them unlike numbers of targets.
Each process' mean is weighted by its share of them: together they are the mean over the batch.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from pipeline import params, schema
from pipeline.errors import UserError
from pipeline.gpt2 import sampling
from pipeline.gpt2.model import FrameGpt, GptConfig
from pipeline.gpt2.sequence import is_target, pad
from pipeline.torch_setup import autocast, compiled
from pipeline.training.contract import Loss, Player, Task, weighted_means
from pipeline.training.processes import ALONE, Processes
from pipeline.training.schedule import warmup_cosine

WEIGHT_DECAY = 0.01


class TokenSet:
    """Clips of one split as codes, in memory: 256 bytes a frame of 128 tokens."""

    def __init__(self, folder: Path, split: str, config: GptConfig) -> None:
        table = schema.read_table(folder / f"{split}.parquet", schema.TOKENS)
        self.clip_ids = table.clip_id.tolist()
        self.clips = [torch.from_numpy(np.asarray(t, np.int64)) for t in table.tokens]
        self.clips = [clip.view(n, -1) for clip, n in zip(self.clips, table.n_frames, strict=True)]
        for clip_id, clip in zip(self.clip_ids, self.clips, strict=True):
            self._check(clip_id, clip, config)

    def _check(self, clip_id: str, clip: torch.Tensor, config: GptConfig) -> None:
        if clip.shape[1] != config.tokens_per_frame or int(clip.max()) >= config.num_embeddings:
            raise UserError(
                f"clip {clip_id} has {clip.shape[1]} tokens a frame up to code {int(clip.max())}, "
                f"expected {config.tokens_per_frame} tokens below {config.num_embeddings}: tokens "
                "and tokenizer do not belong together; run `dvc repro token_precompute`"
            )

    def __len__(self) -> int:
        return len(self.clips)

    def batch(
        self, rows: Sequence[int], device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Padded codes `B T N`, lengths `B`, last frames `B N`."""
        padded, lengths, last = pad([self.clips[row] for row in rows])
        return padded.to(device), lengths.to(device), last.to(device)


class TransformerTask(Task):
    """Task of `training.loop` with the one player `gpt`."""

    def __init__(
        self,
        settings: params.Params,
        tokens: Path,
        codebook: torch.Tensor,
        device: torch.device,
        processes: Processes = ALONE,
    ) -> None:
        self.settings, self.device, self.processes = settings.train, device, processes
        self.precision = settings.base.precision
        config = GptConfig.from_params(settings)
        self.tokens = {split: TokenSet(tokens, split, config) for split in ("train", "val")}
        self.module = FrameGpt(config)
        self.module.start(codebook.cpu())
        self.module.to(device)
        if self.settings.gradient_checkpointing:
            self.module.gpt.activation_checkpointing_enable({"use_reentrant": False})
        for block in self.module.gpt.h:
            # Not the attention: its loops over frames would be compiled for each length of a clip
            compiled(block.mlp, settings.base, sizes_vary=True)
        self.generator = torch.Generator().manual_seed(settings.base.seed)
        train = self.settings
        rate = warmup_cosine(train.lr_start, train.lr_max, train.warmup_epoch_percentage)
        parameters = list(self.module.parameters())
        adam = torch.optim.AdamW(
            parameters, lr=train.lr_max, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY, fused=True
        )
        self.players = {"gpt": Player(parameters, adam, 1.0, rate)}

    def size(self, split: str) -> int:
        return len(self.tokens[split])

    def names(self, rows: Sequence[int]) -> list[str]:
        return [f"clip {self.tokens['train'].clip_ids[row]}" for row in rows]

    def losses(self, rows: Sequence[int], epoch: int, step: int) -> Iterator[Loss]:
        frames, n_frames, last = self.tokens["train"].batch(rows, self.device)
        (longest,) = self.processes.most(frames.shape[1])  # as many passes in all processes
        frames = F.pad(frames, (0, 0, 0, longest - frames.shape[1]))
        inputs = frames[:, :-2]  # B T-2 N
        if epoch >= self.settings.stop_ground_truth_after_epoch:
            inputs = self._own(frames, n_frames, last)
        passes = self._passes(inputs, frames, n_frames, last)
        total = len(passes)
        for number, one in enumerate(passes):
            loss, right, targets = self._loss(*one)
            share = targets / self.processes.mean(targets)
            parts = {"accuracy": right * share}
            # windowed: many passes, one step; their gradients gather as a mean
            yield Loss("gpt", loss * share / total, parts, steps=number + 1 == total)

    def _own(
        self, frames: torch.Tensor, n_frames: torch.Tensor, last: torch.Tensor
    ) -> torch.Tensor:
        """The first frame and what the model draws after it, up to frame n-3: `B T-2 N`."""
        self.module.eval()
        with autocast(self.device, self.precision):
            drawn = [d.codes for d in sampling.draw(self.module, frames[:, 0], last, n_frames)]
        self.module.train()
        own = torch.stack([frames[:, 0], *drawn[:-1]], 1)
        return F.pad(own, (0, 0, 0, frames.shape[1] - 2 - own.shape[1]))

    def _passes(
        self,
        inputs: torch.Tensor,
        frames: torch.Tensor,
        n_frames: torch.Tensor,
        last: torch.Tensor,
    ) -> list[tuple]:
        """Arguments of `_loss`: one pass for the whole clip, or one for each target frame."""
        if self.settings.layout == "clip":
            return [(inputs, frames[:, 1:-1], 0, n_frames, last)]
        before = self.settings.n_frames_before
        passes = []
        for i in range(inputs.shape[1]):
            start = max(0, i - before + 1)
            passes.append(
                (inputs[:, start : i + 1], frames[:, i + 1 : i + 2], start, n_frames, last)
            )
        return passes

    def _loss(
        self,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        start: int,
        n_frames: torch.Tensor,
        last: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean cross entropy, share of codes foretold, and number of the targets that exist."""
        with autocast(self.device, self.precision):
            logits = self.module(inputs, last, n_frames, start)  # B T' N V
        first = start + inputs.shape[1] - targets.shape[1] + 1
        i = first + torch.arange(targets.shape[1], device=self.device)
        exists = is_target(n_frames[:, None], i[None])  # B T'
        count = exists.sum().float()
        if not count:
            return logits.sum() * 0.0, count, count
        logits, targets = logits[exists].flatten(0, 1), targets[exists].flatten()
        right = (logits.argmax(-1) == targets).float().mean()
        return F.cross_entropy(logits.float(), targets), right, count

    def validate(self, batches: Sequence[Sequence[int]]) -> dict[str, float]:
        """Cross entropy and accuracy with the true frames before."""
        return weighted_means([(self._measured(rows), len(rows)) for rows in batches])

    def _measured(self, rows: Sequence[int]) -> dict[str, float]:
        frames, n_frames, last = self.tokens["val"].batch(rows, self.device)
        found = [self._loss(*one) for one in self._passes(frames[:, :-2], frames, n_frames, last)]
        losses, rights, _ = zip(*found, strict=True)
        return {
            "total": float(torch.stack(losses).mean().detach()),
            "accuracy": float(torch.stack(rights).mean()),
        }
