"""Training of the transformer: cross entropy of the next frame's codes (thesis, section 4.2).

Until epoch `stop_ground_truth_after_epoch` the frames before are the true ones (with faults, where
`corruption` asks for them); afterwards they are the model's own, drawn from the clip's two ends, so
that it learns to go on from what it drew. The codes it drew carry no gradient; the last pass over
them does. The modes `maskgit` and `autoregressive` have a loss of their own beside that of the one
pass, and count as much.

Clips differ in length, so a batch shared out over processes gives them unlike numbers of targets.
Each process' mean is weighted by its share of them: together they are the mean over the batch.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from pipeline import params
from pipeline.gpt2 import sampling
from pipeline.gpt2.config import GptConfig
from pipeline.gpt2.model import FrameGpt
from pipeline.gpt2.sequence import is_target
from pipeline.gpt2.trunk import checkpoint_activations, load_pretrained
from pipeline.models.vqgan.model import Tokenizer
from pipeline.torch_setup import autocast, compiled
from pipeline.training.appearance import Perceptual, perceptual_loss
from pipeline.training.clips import Clips, TokenSet, corrupted, partly_drawn
from pipeline.training.contract import Loss, Player, Task, weighted_means
from pipeline.training.processes import ALONE, Processes
from pipeline.training.schedule import warmup_cosine

WEIGHT_DECAY = 0.01
IN_ONE_PASS = sampling.Decoding(mode="seed")


class Pass(NamedTuple):
    """One forward: frames that are read, the frames after them, and where the first one stands."""

    inputs: torch.Tensor  # B T N
    targets: torch.Tensor  # B T' N, T' = T or, windowed, 1
    start: int


class Found(NamedTuple):
    """Means over `count` tokens."""

    loss: torch.Tensor  # cross entropy
    distance: torch.Tensor  # of the expected codebook vector, see `_measured`
    right: torch.Tensor  # share of codes foretold
    count: torch.Tensor


class Eye:
    """Perceptual loss of frames that are drawn as expected codebook vectors.

    The likeliest code has no gradient, the mean of all vectors under the model's distribution does;
    the true frame is the tokenizer's picture of its codes, the best that could be drawn.
    """

    def __init__(self, tokenizer: Tokenizer, compare: Perceptual) -> None:
        self.tokenizer, self.compare = tokenizer, compare

    def __call__(self, logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Logits `F N V` and true codes `F N` to a scalar."""
        vectors = logits.float().softmax(-1) @ self.tokenizer.codebook  # F N D
        with torch.no_grad():
            true = self.tokenizer.decode(codes)
        return self.compare(self.tokenizer.decode_vectors(vectors), true)


class TransformerTask(Task):
    """Task of `training.loop` with the one player `gpt`."""

    def __init__(
        self,
        settings: params.Params,
        tokens: Path,
        tokenizer: Tokenizer,
        device: torch.device,
        processes: Processes = ALONE,
    ) -> None:
        """tokenizer: the trained one, on `device`: its codebook starts the code embeddings."""
        self.settings, self.device, self.processes = settings.train, device, processes
        self.precision = settings.base.precision
        config = GptConfig.from_params(settings)
        method = self.settings.batch_method
        self.tokens = {split: TokenSet(tokens, split, config, method) for split in ("train", "val")}
        self.module = FrameGpt(config)
        self.module.start(tokenizer.codebook.cpu())
        if settings.transformer.pretrained:
            load_pretrained(self.module.gpt, settings.transformer.pretrained)
        self.module.to(device)
        if self.settings.gradient_checkpointing:
            checkpoint_activations(self.module.gpt)
        for block in self.module.gpt.h:
            # Not the attention: its loops over frames would be compiled for each length of a clip
            compiled(block.mlp, settings.base, sizes_vary=True)
        self.codebook = tokenizer.codebook.detach().float().to(device)
        self.spread = self._spread()
        self.eye = self._eye(settings, tokenizer)
        self.generator = torch.Generator().manual_seed(settings.base.seed)
        train = self.settings
        rate = warmup_cosine(train.lr_start, train.lr_max, train.warmup_epoch_percentage)
        parameters = list(self.module.parameters())
        adam = torch.optim.AdamW(
            parameters, lr=train.lr_max, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY, fused=True
        )
        self.players = {"gpt": Player(parameters, adam, 1.0, rate)}

    def _eye(self, settings: params.Params, tokenizer: Tokenizer) -> Eye | None:
        if not self.settings.perceptual_loss_weight:
            return None
        chosen = {"perceptual_loss": self.settings.perceptual_loss}
        compare = perceptual_loss(settings.vqgan.loss.model_copy(update=chosen), self.device)
        return Eye(tokenizer, compare)

    def _spread(self) -> torch.Tensor:
        """Mean squared distance of the train split's codebook vectors to their mean."""
        codes = torch.cat([clip.flatten() for clip in self.tokens["train"].clips])
        share = codes.bincount(minlength=len(self.codebook)).float().to(self.device)[:, None]
        share = share / share.sum()  # V 1
        mean = (share * self.codebook).sum(0)
        return (share * (self.codebook - mean).square()).sum().clamp_min(1e-9)

    def size(self, split: str) -> int:
        return len(self.tokens[split])

    def names(self, rows: Sequence[int]) -> list[str]:
        return [f"clip {self.tokens['train'].clip_ids[row]}" for row in rows]

    def losses(self, rows: Sequence[int], epoch: int, step: int) -> Iterator[Loss]:
        clips = self.tokens["train"].batch(rows, self.device)
        (longest,) = self.processes.most(clips.frames.shape[1])  # as many passes in all processes
        longer = (_longer(x, longest) for x in (clips.frames, clips.moved))
        clips = clips._replace(**dict(zip(("frames", "moved"), longer, strict=True)))
        inputs = self._read(clips, epoch)
        hide, mode = self._hidden(len(rows)), self._mode()
        passes = self._passes(inputs, clips.frames)
        for number, one in enumerate(passes):
            loss, parts = self._weighted(one, clips, mode, hide)
            # windowed: many passes, one step; their gradients gather as a mean
            yield Loss("gpt", loss / len(passes), parts, steps=number + 1 == len(passes))

    def _read(self, clips: Clips, epoch: int) -> torch.Tensor:
        """Frames 0..T-3 as the model reads them, `B T-2 N`."""
        if epoch >= self.settings.stop_ground_truth_after_epoch:
            return self._own(clips)
        if self.settings.corruption:
            return corrupted(clips, self.settings.corruption, self.generator)
        return clips.frames[:, :-2]

    def _own(self, clips: Clips) -> torch.Tensor:
        """The first frame and what the model draws after it, up to frame n-3: `B T-2 N`."""
        own = torch.stack([clips.frames[:, 0], *self._drawn(clips)[:-1]], 1)
        return _longer(own, clips.frames.shape[1] - 2)

    def _drawn(self, clips: Clips) -> list[torch.Tensor]:
        """Frames 1..n-2, `B N` each, drawn by the model as it is, in one pass a frame."""
        training = self.module.training
        self.module.eval()
        ends = (clips.frames[:, 0], clips.last, clips.n_frames)
        with autocast(self.device, self.precision):
            drawn = sampling.draw(self.module, *ends, IN_ONE_PASS, moved=clips.moved)
            codes = [frame.codes for frame in drawn]
        self.module.train(training)
        return codes

    def _hidden(self, batch: int) -> torch.Tensor | None:
        """Clips `B` that are not told their last frame."""
        if not self.settings.key_dropout:
            return None
        chance = torch.rand(batch, generator=self.generator)
        return (chance < self.settings.key_dropout).to(self.device)

    def _mode(self) -> str:
        """The mode beside `seed` that this batch trains."""
        modes = self.module.config.modes
        if len(modes) < 3:
            return modes[-1]
        return modes[1 + int(torch.randint(2, (1,), generator=self.generator))]

    def _passes(self, inputs: torch.Tensor, frames: torch.Tensor) -> list[Pass]:
        """One for the whole clip, or one for each target frame."""
        if self.settings.layout == "clip":
            return [Pass(inputs, frames[:, 1:-1], 0)]
        before = self.module.config.window
        starts = [max(0, i - before + 1) for i in range(inputs.shape[1])]
        return [
            Pass(inputs[:, start : i + 1], frames[:, i + 1 : i + 2], start)
            for i, start in enumerate(starts)
        ]

    def _weighted(
        self, one: Pass, clips: Clips, mode: str, hide: torch.Tensor | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss that is differentiated, and its parts."""
        found, seen = self._found(one, clips, mode, hide, self.generator)
        shares = {name: f.count / self.processes.mean(f.count) for name, f in found.items()}
        losses = {name: f.loss * shares[name] for name, f in found.items()}
        distances = [f.distance * shares[name] for name, f in found.items()]
        total = sum(losses.values()) + self.settings.vector_loss_weight * sum(distances)
        total = total / len(losses)
        once = found["seed"]
        parts = {"cross_entropy": losses["seed"], "distance": distances[0]}
        parts["accuracy"] = once.right * shares["seed"]
        if mode in losses and mode != "seed":
            parts["drawn"] = losses[mode]
        if seen is not None:
            seen = seen * shares["seed"]
            total = total + self.settings.perceptual_loss_weight * seen
            parts["perceptual"] = seen
        return total, parts

    def _found(
        self,
        one: Pass,
        clips: Clips,
        mode: str,
        hide: torch.Tensor | None,
        generator: torch.Generator,
    ) -> tuple[dict[str, Found], torch.Tensor | None]:
        """Cross entropies by mode, and the perceptual loss where it is asked for."""
        first = one.start + one.inputs.shape[1] - one.targets.shape[1] + 1
        i = first + torch.arange(one.targets.shape[1], device=self.device)
        exists = is_target(clips.n_frames[:, None], i[None])[..., None]  # B T' 1
        exists = exists.expand_as(one.targets)
        with autocast(self.device, self.precision):
            ends, more = (clips.last, clips.n_frames), {"hide": hide, "moved": clips.moved}
            if mode == "seed":
                logits = self.module(one.inputs, *ends, one.start, **more)
                found = {"seed": self._measured(logits, one.targets, exists)}
            else:
                drawn, counts = self._begun(one.targets, exists, mode, generator)
                causal = mode == "autoregressive"
                logits, drawing = self.module.complete(one.inputs, *ends, drawn, causal, **more)
                found = {"seed": self._measured(logits, one.targets, exists)}
                found[mode] = self._measured(drawing, one.targets, counts)
            seen = self._seen(logits, one.targets, exists[..., 0], generator)
        return found, seen

    def _begun(
        self, targets: torch.Tensor, exists: torch.Tensor, mode: str, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is there of the frames to be drawn, and which of their tokens count."""
        if mode == "autoregressive":
            return targets, exists
        blank = self.module.config.num_embeddings
        drawn = partly_drawn(targets, blank, generator)
        return drawn, exists & (drawn == blank)

    def _measured(self, logits: torch.Tensor, targets: torch.Tensor, counts: torch.Tensor) -> Found:
        """Logits `B T N V` against codes `B T N`, where `counts`, `B T N`, is true.

        The distance is the mean squared one of the expected codebook vector to the true one, over
        that of all true ones to their mean (`_spread`): 1 for guessing, 0 for certainty.
        """
        count = counts.sum().float()
        if not count:
            nothing = logits.sum() * 0.0
            return Found(nothing, nothing, count, count)
        logits, targets = logits[counts].float(), targets[counts]  # M V, M
        with torch.autocast(self.device.type, enabled=False):
            expected = logits.softmax(-1) @ self.codebook  # M D
        distance = (expected - self.codebook[targets]).square().sum(-1).mean() / self.spread
        right = (logits.argmax(-1) == targets).float().mean()
        return Found(F.cross_entropy(logits, targets), distance, right, count)

    def _seen(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        exists: torch.Tensor,
        generator: torch.Generator,
    ) -> torch.Tensor | None:
        """Perceptual loss of some frames, chosen by chance."""
        if self.eye is None or not torch.is_grad_enabled():
            return None
        chance = torch.rand(exists.shape, generator=generator).to(self.device)
        count = min(self.settings.perceptual_frames or exists.numel(), int(exists.sum()))
        if not count:
            return logits.sum() * 0.0
        chosen = (chance + exists).flatten().topk(count).indices  # those that exist come first
        return self.eye(logits.flatten(0, 1)[chosen], targets.flatten(0, 1)[chosen])

    def validate(self, batches: Sequence[Sequence[int]]) -> dict[str, float]:
        """Cross entropies and accuracy with the true frames before, and alone from the ends.

        `rollout_accuracy` is the share of codes that are right where the model draws all frames by
        itself, in one pass a frame: how far it drifts.
        """
        generator = torch.Generator().manual_seed(0)  # the same tokens are open in every epoch
        return weighted_means([(self._validated(rows, generator), len(rows)) for rows in batches])

    def _validated(self, rows: Sequence[int], generator: torch.Generator) -> dict[str, float]:
        clips = self.tokens["val"].batch(rows, self.device)
        passes = self._passes(clips.frames[:, :-2], clips.frames)
        modes = self.module.config.modes
        means: dict[str, float] = {}
        for mode in modes[1:] or modes:
            found = [self._found(one, clips, mode, None, generator)[0] for one in passes]
            for name in found[0]:
                means[name] = float(torch.stack([f[name].loss.detach() for f in found]).mean())
        right, distance = (
            float(torch.stack([getattr(f["seed"], name).detach() for f in found]).mean())
            for name in ("right", "distance")
        )
        total = sum(means.values()) / len(means)
        alone = {"accuracy": right, "distance": distance}
        alone["rollout_accuracy"] = self._rollout_accuracy(clips)
        return {"total": total} | alone | (means if len(means) > 1 else {})

    def _rollout_accuracy(self, clips: Clips) -> float:
        drawn = torch.stack(self._drawn(clips), 1)
        i = 1 + torch.arange(drawn.shape[1], device=self.device)
        exists = is_target(clips.n_frames[:, None], i[None])
        return float((drawn == clips.frames[:, 1:-1])[exists].float().mean())


def _longer(frames: torch.Tensor, count: int) -> torch.Tensor:
    """`B T N` filled up with code 0 to `B count N`."""
    return F.pad(frames, (0, 0, 0, count - frames.shape[1]))
