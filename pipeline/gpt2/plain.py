"""A plain GPT: the blocks of Radford et al., 2019, in sixty lines, after the example of minGPT.

Same sizes, same names of its parts and same results as transformers' GPT-2 with equal weights.
It sees through dense masks, so that it shows what the clip layout's attention and the cache should
give; for training it is the slower of the two (benchmarks/gpt2_step.py).
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from pipeline.gpt2.cache import WindowCache
from pipeline.gpt2.config import GptConfig
from pipeline.gpt2.sequence import clip_mask

DEVIATION = 0.02  # of all weights at the start


class PlainGpt(nn.Module):
    """Embedded positions `B S E` to hidden states `B S E`."""

    def __init__(self, config: GptConfig, vocabulary: int) -> None:
        super().__init__()
        self.config, self.checkpointing = config, False
        self.wte = nn.Embedding(vocabulary, config.n_embd)
        self.wpe = nn.Embedding(config.positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.apply(_start)
        for block in self.h:  # as many additions to the residual stream as two a block
            for last in (block.attn.c_proj, block.mlp.c_proj):
                nn.init.normal_(last.weight, std=DEVIATION / (2 * config.n_layer) ** 0.5)

    def forward(
        self,
        inputs: torch.Tensor,
        position_ids: torch.Tensor,
        cache: WindowCache | None = None,
        drawn: int = 0,
        causal: bool = False,
    ) -> torch.Tensor:
        """position_ids: rows of the position table, `1 S`. The rest as in `FrameGpt`."""
        mask = None if cache else self._mask(inputs.shape[1], drawn, causal).to(inputs.device)
        x = self.drop(inputs + self.wpe(position_ids))
        for block in self.h:
            if self.checkpointing and self.training:
                x = checkpoint(block, x, mask, cache, use_reentrant=False)
            else:
                x = block(x, mask, cache)
        return self.ln_f(x)

    def _mask(self, size: int, drawn: int, causal: bool) -> torch.Tensor:
        """bool `S S`, true where a query may look."""
        config, places = self.config, self.config.positions_per_frame
        if not config.whole:
            return torch.ones(size, size, dtype=torch.bool).tril()
        return clip_mask(size // places - drawn, drawn, places, config.window, causal)


class Block(nn.Module):
    def __init__(self, config: GptConfig, layer: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(config.n_embd), nn.LayerNorm(config.n_embd)
        self.attn, self.mlp = Attention(config, layer), Mlp(config)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None, cache: WindowCache | None
    ) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x), mask, cache)
        return x + self.mlp(self.ln_2(x))


class Attention(nn.Module):
    def __init__(self, config: GptConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads, self.dropout = layer, config.n_head, config.attn_pdrop
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None, cache: WindowCache | None
    ) -> torch.Tensor:
        split = self.c_attn(x).unflatten(2, (3, self.heads, -1))  # B S 3 H D
        q, k, v = split.permute(2, 0, 3, 1, 4)  # B H S D
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.resid_dropout(self.c_proj(out.transpose(1, 2).flatten(2)))


class Mlp(nn.Module):
    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=DEVIATION)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
