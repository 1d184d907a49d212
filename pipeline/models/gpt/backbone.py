"""The transformer blocks: transformers' GPT-2, or our plain GPT, behind one call.

    hidden = backbone(inputs, position_ids, mask, cache)      # B S E

Both have the token table `wte` (Radford et al., 2019), and a key/value cache that
the call extends. Published GPT-2 weights come from a folder, or from the hub's cache
(`transformer.pretrained`).
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.errors import UserError
from pipeline.models.pretrained.weights import gpt2_folder
from pipeline.runtime import repair_torchvision

if TYPE_CHECKING:
    from transformers import DynamicCache

    from pipeline.models.gpt.model import GptConfig

INIT_STD = 0.02  # of all weights, GPT-2's

PlainCache = list[tuple[Tensor, Tensor] | None]  # keys and values B H K D of each layer


class HuggingFaceGpt(nn.Module):
    """transformers' GPT2Model with scaled_dot_product_attention."""

    def __init__(self, config: "GptConfig") -> None:
        super().__init__()
        repair_torchvision()
        from transformers import GPT2Config, GPT2Model

        self.model = GPT2Model(
            GPT2Config(
                vocab_size=config.num_embeddings,
                n_positions=config.positions,
                n_embd=config.n_embd,
                n_layer=config.n_layer,
                n_head=config.n_head,
                embd_pdrop=config.dropout,
                resid_pdrop=config.dropout,
                attn_pdrop=config.dropout,
                bos_token_id=None,
                eos_token_id=None,
                attn_implementation="sdpa",
                use_cache=False,
            )
        )

    def forward(
        self,
        inputs: Tensor,
        position_ids: Tensor,
        mask: Tensor | None = None,
        cache: "DynamicCache | None" = None,
    ) -> Tensor:
        """Embedded positions `B S E` to hidden states `B S E`.

        position_ids: rows of the position table, `1 S`. mask: bool `S K`, True where a position may
        look, K = cached positions + S; None: causal. cache: is extended by the S positions.
        """
        # a mask of four dimensions is passed on to scaled_dot_product_attention as it is
        attention_mask = None if mask is None else mask[None, None]  # 1 1 S K
        output = self.model(
            inputs_embeds=inputs,
            position_ids=position_ids,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state

    @property
    def wte(self) -> nn.Embedding:
        return self.model.wte

    def new_cache(self) -> "DynamicCache":
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def forget(self, cache: "DynamicCache", start: int, stop: int) -> None:
        """Drops the cached positions start..stop-1."""
        if stop == cache.get_seq_length():
            cache.crop(start - stop)  # a negative number: positions to remove at the end
            return
        for layer in cache.layers:
            layer.keys = torch.cat([layer.keys[:, :, :start], layer.keys[:, :, stop:]], 2)
            layer.values = torch.cat([layer.values[:, :, :start], layer.values[:, :, stop:]], 2)


class PlainGpt(nn.Module):
    """The same blocks in sixty lines, after the example of minGPT.

    Same sizes, names of parts and results as transformers' GPT-2 with equal weights.
    """

    def __init__(self, config: "GptConfig") -> None:
        super().__init__()
        self.checkpointing = False
        self.wte = nn.Embedding(config.num_embeddings, config.n_embd)
        self.wpe = nn.Embedding(config.positions, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for block in self.h:  # each block adds twice to the residual stream
            for projection in (block.attn.c_proj, block.mlp.c_proj):
                nn.init.normal_(projection.weight, std=INIT_STD / (2 * config.n_layer) ** 0.5)

    def forward(
        self,
        inputs: Tensor,
        position_ids: Tensor,
        mask: Tensor | None = None,
        cache: PlainCache | None = None,
    ) -> Tensor:
        """As `HuggingFaceGpt.forward`."""
        x = self.drop(inputs + self.wpe(position_ids))  # B S E
        for block in self.h:
            if self.checkpointing and self.training:
                x = checkpoint(block, x, mask, cache, use_reentrant=False)
            else:
                x = block(x, mask, cache)
        return self.ln_f(x)

    def new_cache(self) -> PlainCache:
        return [None] * len(self.h)

    def forget(self, cache: PlainCache, start: int, stop: int) -> None:
        """Drops the cached positions start..stop-1."""
        for layer, (k, v) in enumerate(cache):
            k = torch.cat([k[:, :, :start], k[:, :, stop:]], 2)
            v = torch.cat([v[:, :, :start], v[:, :, stop:]], 2)
            cache[layer] = (k, v)


class Block(nn.Module):
    def __init__(self, config: "GptConfig", layer: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(config.n_embd), nn.LayerNorm(config.n_embd)
        self.attn, self.mlp = Attention(config, layer), Mlp(config)

    def forward(self, x: Tensor, mask: Tensor | None, cache: PlainCache | None) -> Tensor:
        x = x + self.attn(self.ln_1(x), mask, cache)
        return x + self.mlp(self.ln_2(x))


class Attention(nn.Module):
    def __init__(self, config: "GptConfig", layer: int) -> None:
        super().__init__()
        self.layer, self.n_head, self.dropout = layer, config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None, cache: PlainCache | None) -> Tensor:
        qkv = self.c_attn(x).unflatten(2, (3, self.n_head, -1))  # B S 3 H D
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # B H S D
        if cache is not None:
            if cache[self.layer] is not None:
                past_k, past_v = cache[self.layer]
                k = torch.cat([past_k, k], 2)  # B H K D
                v = torch.cat([past_v, v], 2)
            cache[self.layer] = (k, v)
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None
        )
        return self.resid_dropout(self.c_proj(out.transpose(1, 2).flatten(2)))  # B S E


class Mlp(nn.Module):
    def __init__(self, config: "GptConfig") -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))


def checkpoint_activations(backbone: HuggingFaceGpt | PlainGpt) -> None:
    """Activations are computed again in the backward pass instead of kept."""
    if isinstance(backbone, PlainGpt):
        backbone.checkpointing = True
    else:
        backbone.model.activation_checkpointing_enable({"use_reentrant": False})


@torch.no_grad()
def load_pretrained(backbone: HuggingFaceGpt, source: str) -> str:
    """Copies published GPT-2 weights; gives a sentence where the token table is not among them.

    source: as in `weights.gpt2_folder`. A longer position table continues the published rows with
    random rows of the same standard deviation. The single position of a full-clip sequence gets the
    mean row: row 0 is an outlier in GPT-2. The token table is copied where it has as many rows as
    the codebook (GPT-2 has 50,257, as the thesis' codebook). UserError where nothing is found, or
    sizes differ.
    """
    published, model = _published(source), backbone.model
    for name in ("n_layer", "n_head", "n_embd"):
        value, expected = getattr(published.config, name), getattr(model.config, name)
        if value != expected:
            raise UserError(
                f"transformer.pretrained = {source}: its {name} is {value} and the transformer's "
                f"{expected}; choose the transformer_type, or the sizes, that were published"
            )
    model.h.load_state_dict(published.h.state_dict())
    model.ln_f.load_state_dict(published.ln_f.state_dict())
    positions = published.wpe.weight
    if len(model.wpe.weight) == 1:
        model.wpe.weight.copy_(positions.mean(0, keepdim=True))
    else:
        kept = min(len(positions), len(model.wpe.weight))
        model.wpe.weight.normal_(std=float(positions.std()))
        model.wpe.weight[:kept] = positions[:kept]
    there, codes = len(published.wte.weight), len(model.wte.weight)
    if there != codes:
        return (
            f"transformer.pretrained = {source}: its table of {there} tokens is left out, as the "
            f"codebook has {codes} codes; vqgan.vqvae.num_embeddings = {there} takes it"
        )
    model.wte.weight.copy_(published.wte.weight)
    return ""


def _published(source: str) -> nn.Module:
    folder = gpt2_folder(source)
    repair_torchvision()
    from transformers import GPT2Model

    try:  # safetensors only: a pickle from outside is never opened
        return GPT2Model.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"transformer.pretrained = {source} cannot be loaded ({reason}); expected the "
            'config.json and model.safetensors of a GPT-2, or "" to start from nothing'
        ) from None
