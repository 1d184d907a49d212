"""Training of the transformer: cross entropy of the next frame's token ids (thesis, section 3.3.1).

Until epoch `stop_ground_truth_after_epoch` the model reads true previous frames (teacher forcing;
with `token_noise` some of their tokens are wrong). Afterwards it reads its own predictions,
generated from the clip's two ends, so that it learns to continue them. The generation has no
gradient; the pass that reads it has one. Mode `maskgit` has a loss of its own beside that of the
one pass, and both count as much. With `vqgan.context: previous` parts of sequences are read, always
true ones, while generation reads frames that it drew.

Clips differ in length, so batches have unlike numbers of targets. A loss is the mean over those of
its batch, and the trainer weighs batches by them (`count_targets`). How many of them `maskgit`
masks is random, so its sum over masked tokens is divided by the number to be expected: each masked
token of a step then counts as much, in whatever batch it is.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline import config
from pipeline.models.gpt import sampling
from pipeline.models.gpt.backbone import checkpoint_activations, load_pretrained
from pipeline.models.gpt.model import FrameGpt, GptConfig
from pipeline.models.gpt.sequence import is_target
from pipeline.models.vqgan.keyframes import KeyframeTokenizer
from pipeline.models.vqgan.model import Tokenizer
from pipeline.models.vqgan.previous import PreviousTokenizer
from pipeline.runtime import autocast
from pipeline.training.distributed import RNG_STRIDE, SINGLE_PROCESS, DistributedContext
from pipeline.training.perceptual import perceptual_loss
from pipeline.training.sequence_dataset import SequenceSet
from pipeline.training.task import Loss, OptimizerSpec, Task, warmup_cosine, weighted_means
from pipeline.training.token_dataset import (
    PartSet,
    TokenBatch,
    TokenSet,
    add_token_noise,
    count_context_channels,
    mask_tokens,
)

WEIGHT_DECAY = 0.05  # of matrices; norms, biases and embeddings have none
MASKED_SHARE = 2 / math.pi  # of all tokens, to be expected: the mean of `mask_tokens`' cosine
CONTEXT_CLIPS = 512  # clips by which context features are normalised
PARALLEL = sampling.GREEDY.model_copy(update={"mode": "parallel"})


class Pass(NamedTuple):
    """One forward pass: frames that are read, the frames to predict, and where the first stands."""

    inputs: Tensor  # B T N
    targets: Tensor  # B T' N; T' = T, or 1 in a sliding window
    start: int  # number of the first frame of `inputs`

    @property
    def first_target(self) -> int:
        return self.start + self.inputs.shape[1] - self.targets.shape[1] + 1


class TokenLoss(NamedTuple):
    """Sums over the tokens that count."""

    cross_entropy: Tensor
    correct: Tensor
    count: Tensor


class GptTask(Task):
    """Task of `trainer.train` with the one optimizer `gpt`."""

    unit = "tokens"

    def __init__(
        self,
        settings: config.Params,
        tokens: Path,
        tokenizer: Tokenizer | KeyframeTokenizer | PreviousTokenizer,
        device: torch.device,
        processes: DistributedContext = SINGLE_PROCESS,
        shards: Path | None = None,
    ) -> None:
        """tokenizer: the trained one, on `device`: its codebook starts the token embeddings.

        shards: with the previous frame as context, what the sequences are of.
        """
        self.settings, self.device, self.processes = settings.train, device, processes
        self.precision, self.tokenizer = settings.base.precision, tokenizer
        seed = settings.base.seed + processes.rank * RNG_STRIDE
        self.generator = torch.Generator().manual_seed(seed)
        channels = count_context_channels(tokens, tokenizer.tokens_per_frame)
        config = GptConfig.from_params(settings, tokenizer.grid, channels)
        method = self.settings.batch_method
        self.tokens = {split: TokenSet(tokens, split, config, method) for split in ("train", "val")}
        train = self.tokens["train"]
        self.parts = None
        if isinstance(tokenizer, PreviousTokenizer):
            self.parts = {}
            for split in self.tokens:
                sequences = SequenceSet(shards, split, settings.base.seed)
                self.parts[split] = PartSet(
                    sequences, tokenizer, self.settings.n_epochs, self.settings.n_frames_before + 1
                )

        self.module = FrameGpt(config)
        self.module.init_from_codebook(tokenizer.codebook.cpu())
        self.module.init_bias(train.counts(config.num_embeddings))
        if config.context_channels:
            clips = train.features[:: -(-len(train) // CONTEXT_CLIPS)]
            first = 0 if self.parts is None else 1  # from which frame on there are features
            self.module.fit_context(torch.cat([clip[first:].flatten(0, 1) for clip in clips]))
        if settings.transformer.pretrained:
            left_out = load_pretrained(self.module.gpt, settings.transformer.pretrained)
            if left_out and processes.is_main:
                print(f"gpt2_train: {left_out}", file=sys.stderr, flush=True)
        self.module.to(device)
        if settings.base.gradient_checkpointing:
            checkpoint_activations(self.module.gpt)
        weighed = self.settings.perceptual_loss_weight
        self.perceptual = perceptual_loss(settings.vqgan.loss, device) if weighed else None
        self.perceptual_subset = settings.vqgan.loss.perceptual_subset
        self.optimizers = {"gpt": make_optimizer(self.module, self.settings)}

    def size(self, split: str) -> int:
        return len((self.parts or self.tokens)[split])

    def names(self, rows: Sequence[int]) -> list[str]:
        if self.parts is not None:
            return [self.parts["train"].sequences.name(row) for row in rows]
        return [self.tokens["train"].names[row] for row in rows]

    def count_targets(self, rows: Sequence[int]) -> int:
        if self.parts is not None:
            # each part counts alike, however many frames of it are predicted
            return len(rows) * self.module.config.tokens_per_frame
        lengths = [len(self.tokens["train"].clips[row]) for row in rows]
        if self.settings.batch_method == "truncation":
            lengths = [min(lengths)] * len(lengths)
        return sum(n - 2 for n in lengths) * self.module.config.tokens_per_frame

    def losses(self, rows: Sequence[int], epoch: int, step: int) -> Iterator[Loss]:
        if self.parts is not None:
            with autocast(self.device, self.precision):
                batch = self.parts["train"].batch(rows, self.device, epoch, step)
        else:
            batch = self.tokens["train"].batch(rows, self.device, self.generator)
        if epoch >= self.settings.stop_ground_truth_after_epoch:
            generated = self._generate(batch)[:-1]
            inputs = torch.stack([batch.ids[:, 0], *generated], 1)  # B T-2 N
        elif self.settings.token_noise:
            rate = self.settings.token_noise
            inputs = add_token_noise(batch.ids, batch.n_frames, rate, self.generator)
        else:
            inputs = batch.ids[:, :-2]
        passes = self._passes(inputs, batch.ids)
        for number, one in enumerate(passes):
            total, parts = self._loss(one, batch, self.generator)
            yield Loss("gpt", total, parts, is_last=number + 1 == len(passes))

    def validate(self, batches: Sequence[Sequence[int]]) -> dict[str, float]:
        """The losses of training and the accuracy, with true previous frames.

        `rollout_accuracy` is the share of correct token ids where the model generates all frames
        from the clip's two ends, in one pass a frame: how far it drifts.
        """
        generator = torch.Generator().manual_seed(0)  # the same tokens are masked in every epoch
        results = []
        for rows in batches:
            if self.parts is not None:
                with autocast(self.device, self.precision):
                    batch = self.parts["val"].batch(rows, self.device, 0, None)
            else:
                batch = self.tokens["val"].batch(rows, self.device, generator)
            passes = self._passes(batch.ids[:, :-2], batch.ids)
            sums: dict[str, float] = {}
            for one in passes:
                total, parts = self._loss(one, batch, generator)
                for name, value in ({"total": total} | parts).items():
                    sums[name] = sums.get(name, 0.0) + float(value.detach())
            if self.parts is None:  # parts need decoded frames
                generated = torch.stack(self._generate(batch), 1)  # B T-2 N
                i = 1 + torch.arange(generated.shape[1], device=self.device)
                exists = is_target(batch.n_frames[:, None], i[None])  # B T-2
                correct = (generated == batch.ids[:, 1:-1])[exists]
                sums["rollout_accuracy"] = float(correct.float().mean())
            results.append((sums, int(batch.n_targets.sum())))
        return weighted_means(results)

    def _passes(self, inputs: Tensor, ids: Tensor) -> list[Pass]:
        """Of inputs `B T-2 N` and true ids `B T N`: one for the clip, or one for each target."""
        if self.module.config.full_clip:
            return [Pass(inputs, ids[:, 1:-1], 0)]
        passes = []
        for i in range(inputs.shape[1]):
            start = max(0, i - self.module.config.window + 1)
            passes.append(Pass(inputs[:, start : i + 1], ids[:, i + 1 : i + 2], start))
        return passes

    def _generate(self, batch: TokenBatch) -> list[Tensor]:
        """Frames 1..n-2, `B N` each, greedy, in one pass a frame."""
        training = self.module.training
        self.module.eval()
        with autocast(self.device, self.precision):
            frames = list(sampling.generate(self.module, batch.ids[:, 0], batch.cond, PARALLEL))
        self.module.train(training)
        return frames

    def _loss(
        self, one: Pass, batch: TokenBatch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A pass' share of the loss of its batch, and the parts: they add up over the passes."""
        i = one.first_target + torch.arange(one.targets.shape[1], device=self.device)
        exists = is_target(batch.n_frames[:, None], i[None])  # B T'
        counted = exists[..., None].expand_as(one.targets)  # B T' N
        maskgit = None
        with autocast(self.device, self.precision):
            if self.module.config.mode == "maskgit":
                mask_id = self.module.config.num_embeddings
                partial = mask_tokens(one.targets, mask_id, generator)
                logits, completed = self.module.complete(one.inputs, batch.cond, partial)
                maskgit = _token_loss(completed, one.targets, counted & (partial == mask_id))
            else:
                logits = self.module(one.inputs, batch.cond, one.start)
            parallel = _token_loss(logits, one.targets, counted)
            perceptual = None
            if self.perceptual is not None:
                perceptual = self._perceptual(logits, one.targets, exists, generator)
        n_targets = batch.n_targets.sum().float() * one.targets.shape[2]  # of all passes
        cross_entropy = parallel.cross_entropy / n_targets
        parts = {"cross_entropy": cross_entropy, "accuracy": parallel.correct / n_targets}
        total = cross_entropy
        if maskgit is not None:
            parts["maskgit"] = maskgit.cross_entropy / (MASKED_SHARE * n_targets)
            total = (total + parts["maskgit"]) / 2
        if perceptual is not None:
            parts["perceptual"] = perceptual * parallel.count / n_targets
            total = total + self.settings.perceptual_loss_weight * parts["perceptual"]
        return total, parts

    def _perceptual(
        self, logits: Tensor, targets: Tensor, exists: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Perceptual loss of `perceptual_subset` random frames of a pass, a mean over frames.

        The prediction is decoded from the expected codebook vector: an argmax has no gradient. The
        true frame is decoded from its token ids, the best that could be predicted.
        """
        chance = torch.rand(exists.shape, generator=generator).to(self.device)
        n_frames = min(self.perceptual_subset or exists.numel(), int(exists.sum()))
        if not n_frames:
            return logits.sum() * 0.0
        chosen = (chance + exists).flatten().topk(n_frames).indices  # existing ones come first
        probabilities = logits.flatten(0, 1)[chosen].float().softmax(-1)  # F N V
        vectors = probabilities @ self.tokenizer.codebook  # F N D
        with torch.no_grad():
            truth = self.tokenizer.decode(targets.flatten(0, 1)[chosen])
        return self.perceptual(self.tokenizer.decode_vectors(vectors), truth)


def make_optimizer(module: FrameGpt, settings: config.Train) -> OptimizerSpec:
    """AdamW, which decays matrices alone."""
    matrices, others = [], []
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            is_matrix = parameter.dim() > 1 and not isinstance(layer, nn.Embedding)
            (matrices if is_matrix else others).append(parameter)
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others}]
    options = {"betas": (0.9, 0.95), "weight_decay": 0.0, "fused": True}
    adam = torch.optim.AdamW(groups, lr=settings.lr_max, **options)
    rate = warmup_cosine(settings.lr_start, settings.lr_max, settings.warmup_epoch_percentage)
    return OptimizerSpec([*matrices, *others], adam, 1.0, rate)


def _token_loss(logits: Tensor, targets: Tensor, counted: Tensor) -> TokenLoss:
    """Logits `B T N V` against token ids `B T N`, where `counted`, `B T N`, is true."""
    count = counted.sum().float()
    if not count:
        zero = logits.sum() * 0.0
        return TokenLoss(zero, zero, count)
    logits, targets = logits[counted].float(), targets[counted]  # K V, K
    correct = (logits.argmax(-1) == targets).sum().float()
    return TokenLoss(F.cross_entropy(logits, targets, reduction="sum"), correct, count)
