"""Arithmetic and memory of the transformer's training, by count: what a step computes and keeps.

Arithmetic (`flops`): matrix products of one clip, forward and backward, a multiplication and an
addition as two. A linear map with W weights costs 6 W at each position, attention 12 E for each key
that a query may see in each layer; checkpointing computes the blocks' forward (2 W, 4 E) again, but
for the last map of each. The loss is left out.

Memory (`Memory`, mode `seed`): 16 bytes a parameter in float32 (weight, gradient, both of Adam's
moments) and 2 for its copy in bf16; what the blocks of one pass keep for the way back, tensor by
tensor, in bf16 where autocast has it so; and the larger of what the loss needs (logits, chances and
gradients, 16 bytes a logit) and what the way back through a block needs: half of what it keeps, and
with checkpointing all that again. `calibrations` compares this with what PyTorch keeps and
allocates for small models on this machine.

A GPU keeps more of GPT-2's GELU than a CPU does: there autocast takes its power in float32 (by
PyTorch's list of such operations; counted, not measured here).
"""

import math
import os
from dataclasses import dataclass

import torch
from pipeline.gpt2.config import GptConfig
from pipeline.gpt2.model import FrameGpt
from pipeline.gpt2.sequence import clip_mask, visible_blocks
from pipeline.training.transformer import TransformerTask

from benchmarks import gpt2_row
from pipeline import params, presets, torch_setup

TARGETS = gpt2_row.FRAMES - 2  # frames of a clip that are foretold, one after each that is read
CARDS = (8, 16, 24, 80)  # GB of 10^9 bytes: what a card has beyond is left to its driver
TYPES = ("custom", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
GELU = {"cpu": 32, "cuda": 56}  # bytes at a position, times the width; it is five operations
THESIS = {"transformer": {"merge": 1, "copying": False, "moved_keys": False}}
OURS = {"transformer": {"merge": 2, "copying": True, "moved_keys": True}}
LAYOUTS = {
    "clip/merge=1/before=2": (THESIS, "clip", 2),
    "clip/merge=1/before=8": (THESIS, "clip", 8),
    "clip/merge=2/before=2": (OURS, "clip", 2),
    "clip/merge=2/before=8": (OURS, "clip", 8),
    "windowed/merge=1/before=1": (THESIS, "windowed", 1),
    "windowed/merge=1/before=8": (THESIS, "windowed", 8),
}


def passes(config: GptConfig) -> list[int]:
    """Frames that each pass over a clip reads."""
    if config.whole:
        return [TARGETS]
    return [min(i + 1, config.window) for i in range(TARGETS)]


def drawings(config: GptConfig) -> int:
    """Drawing blocks after the frames of a pass."""
    return TARGETS if len(config.modes) > 1 else 0


def seen(config: GptConfig, frames: int) -> int:
    """Pairs of a query and a key that it may see, in one pass over so many frames."""
    places = config.positions_per_frame
    if not config.whole:
        size = (1 + frames) * places
        return size * (size + 1) // 2
    causal = config.modes[-1] == "autoregressive"
    return int(clip_mask(1 + frames, drawings(config), places, config.window, causal).sum())


def flops(config: GptConfig, checkpointing: bool = False) -> float:
    """Of matrix products, for one clip of a training step."""
    width, places = config.n_embd, config.positions_per_frame
    gates = config.copying * config.sources * config.merge**2 * width
    drawn, total = drawings(config), 0.0
    for frames in passes(config):
        square = 2 * width**2 * (1 + frames + drawn) * places  # a map from width to width
        attention = 4 * width * seen(config, frames)
        blocks = config.n_layer * (12 * square + attention)
        again = checkpointing * config.n_layer * (8 * square + attention)
        foretold = (frames if config.whole else 1) + drawn
        rest = 2 * (config.num_embeddings * width + gates) * foretold * places
        rest += 2 * width**2 * (config.moved_keys * frames + drawn) * places
        rest += 2 * width**2 * config.moved_keys * drawn * places  # drawings are told them too
        total += 3 * (blocks + rest) + again
    return total


@dataclass(frozen=True)
class Memory:
    """Bytes that training needs, by count."""

    config: GptConfig
    parameters: int
    device: str  # key of GELU

    @property
    def fixed(self) -> int:
        return (16 + 2) * self.parameters

    @property
    def positions(self) -> int:
        """Of a clip's largest pass."""
        return (1 + max(passes(self.config))) * self.config.positions_per_frame

    @property
    def layer(self) -> float:
        """What a block keeps of a clip: inputs of its two norms (float32), of its maps, GELU's."""
        config, width = self.config, self.config.n_embd
        per_width = 4 + 2 + 6 + 2 + 4 + 2 + GELU[self.device] + 8
        kept = self.positions * (per_width * width + 4 * config.n_head + 16)
        if config.whole:  # keys and values of all frames that a frame sees, its queries, and out
            blocks = sum(len(visible_blocks(row, config.window)) for row in range(1 + TARGETS))
            kept += 4 * width * (config.positions_per_frame * blocks + self.positions)
        return kept

    @property
    def logits(self) -> int:
        """Numbers of a clip's largest pass."""
        targets = TARGETS if self.config.whole else 1
        return targets * self.config.tokens_per_frame * self.config.num_embeddings

    def blocks(self, checkpointing: bool) -> float:
        """What blocks, the last norm and its output keep of a clip for the way back."""
        row = self.config.n_embd * self.positions
        kept = self.config.n_layer * (4 * row if checkpointing else self.layer)
        return kept + (4 + 2 + 2 * self.config.moved_keys) * row

    def kept(self, checkpointing: bool) -> float:
        """The same with what the loss keeps: chances and their logarithms in float32."""
        return self.blocks(checkpointing) + 8 * self.logits

    def clip(self, checkpointing: bool) -> float:
        """All that a clip needs at the worst moment: at the loss, or in the last block after it."""
        again = self.layer * (1.0 if checkpointing else 0.5)
        return self.blocks(checkpointing) + max(16 * self.logits, again)

    def batch(self, room: float, checkpointing: bool, margin: float = 1.0) -> int:
        """The largest number of clips that fit into so many bytes; 0: none."""
        return max(0, math.floor((room - self.fixed) / (margin * self.clip(checkpointing))))


def settings_of(kind: str, layout: str, **train: object) -> params.Params:
    over, name, before = LAYOUTS[layout]
    train = {"layout": name, "mode": "seed", "n_frames_before": before} | train
    over = presets.merged(over, {"transformer": {"transformer_type": kind}, "train": train})
    return gpt2_row.settings_of(presets.merged(over, {"base": {"precision": "bf16"}}))


def counted(kind: str, layout: str, device: str) -> Memory:
    config = GptConfig.from_params(settings_of(kind, layout))
    with torch.device("meta"):
        model = FrameGpt(config)
    return Memory(config, sum(p.numel() for p in model.parameters()), device)


def measured(task: TransformerTask, clips: int) -> tuple[int, int]:
    """Bytes that the largest pass keeps beside the weights, and the most allocated in all passes.

    Weights and Adam's moments are there before; gradients and copies in bf16 come.
    """
    own = {p.untyped_storage().data_ptr() for p in task.module.parameters()}
    now: dict[int, int] = {}
    most = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            now[storage.data_ptr()] = storage.nbytes()
        return tensor

    cpu = [torch.profiler.ProfilerActivity.CPU]
    with (
        torch.profiler.profile(activities=cpu, profile_memory=True) as profile,
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        for loss in task.losses(range(clips), 0, 0):
            most = max(most, sum(now.values()))
            loss.total.backward()
            now.clear()
    return most, _peak(profile)


def _peak(profile: torch.profiler.profile) -> int:
    """Of the sum of all that is allocated and freed."""
    events = profile.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    held = most = 0
    for _, change in sorted(changes, key=lambda one: one[0]):
        held += change
        most = max(most, held)
    return most


def calibrations(clips: int = 2) -> list[dict]:
    """Measured over counted for params.yaml's sizes, all layouts, with and without checkpointing.

    `kept`: for the way back, with the weights' bf16 copies; `peak`: all that a step allocates,
    which is `mb`.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler says that it starts
    rows = []
    for layout in LAYOUTS:
        for name, checkpointing in (("", False), ("/checkpointing", True)):
            settings = settings_of("custom", layout, gradient_checkpointing=checkpointing)
            task = gpt2_row.make_task(settings, clips, torch_setup.find_device("cpu"))
            memory = counted("custom", layout, "cpu")
            kept, peak = measured(task, clips)
            copies = 0 if checkpointing else 2 * memory.parameters
            told = {
                "kept": kept / (copies + clips * memory.kept(checkpointing)),
                "peak": peak / (6 * memory.parameters + clips * memory.clip(checkpointing)),
                "mb": peak / 1e6,
            }
            rows.append({"name": layout + name} | rounded(told))
    return rows


def batches(margin: float) -> list[dict]:
    """Bytes on a GPU, by count times `margin`, and the largest batches.

    Pairs are without and with checkpointing.
    """
    rows = []
    for kind in TYPES:
        for layout in LAYOUTS:
            memory = counted(kind, layout, "cuda")
            plain, checkpointed = (margin * memory.clip(way) / 1e6 for way in (False, True))
            told = {"mb": plain, "checkpointed_mb": checkpointed}
            told |= {"millions": memory.parameters / 1e6, "fixed_gb": memory.fixed / 1e9}
            fits = {
                f"in_{card}_gb": [memory.batch(card * 1e9, way, margin) for way in (False, True)]
                for card in CARDS
            }
            rows.append({"name": f"{kind}/{layout}"} | rounded(told) | fits)
    return rows


def rounded(numbers: dict[str, float]) -> dict[str, float]:
    """To four digits."""
    return {name: float(f"{value:.4g}") for name, value in numbers.items()}
