"""The transformer's blocks: transformers' GPT-2, or our plain GPT, behind one call.

    hidden = trunk(inputs, position_ids, cache=None, drawn=0, causal=False)      # B S E

Both have the parts `wte`, `wpe`, `h` and `ln_f`. Published GPT-2 weights come from a folder or from
the hub (`transformer.pretrained`); their position table grows where the context is longer, the
published rows kept, the new ones continue it as random rows of its own deviation.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from pipeline.errors import UserError
from pipeline.gpt2.attention import NAME, frame_window_attention
from pipeline.gpt2.cache import WindowCache
from pipeline.gpt2.config import GptConfig
from pipeline.gpt2.plain import PlainGpt
from pipeline.torch_setup import repair_torchvision


class HuggingFaceGpt(nn.Module):
    """transformers' GPT2Model, called as the plain one is."""

    def __init__(self, config: GptConfig, vocabulary: int) -> None:
        super().__init__()
        self.model = _gpt2(config, vocabulary)

    def forward(
        self,
        inputs: torch.Tensor,
        position_ids: torch.Tensor,
        cache: WindowCache | None = None,
        drawn: int = 0,
        causal: bool = False,
    ) -> torch.Tensor:
        more = {}
        if cache is not None:
            more = {"past_key_values": cache, "use_cache": True, "cached": True}
        elif drawn:
            more = {"drawn": drawn, "causal": causal}
        found = self.model(inputs_embeds=inputs, position_ids=position_ids, **more)
        return found.last_hidden_state

    @property
    def wte(self) -> nn.Embedding:
        return self.model.wte

    @property
    def wpe(self) -> nn.Embedding:
        return self.model.wpe

    @property
    def h(self) -> nn.ModuleList:
        return self.model.h


def make_trunk(config: GptConfig) -> HuggingFaceGpt | PlainGpt:
    """Random weights. Where squares of tokens share a position, `wte` is one unused row."""
    vocabulary = config.num_embeddings if config.merge == 1 else 1
    return (PlainGpt if config.plain else HuggingFaceGpt)(config, vocabulary)


def checkpoint_activations(trunk: HuggingFaceGpt | PlainGpt) -> None:
    """Activations are computed again in the backward pass instead of kept."""
    if isinstance(trunk, PlainGpt):
        trunk.checkpointing = True
    else:
        trunk.model.activation_checkpointing_enable({"use_reentrant": False})


@torch.no_grad()
def load_pretrained(trunk: HuggingFaceGpt, source: str) -> bool:
    """Takes over published weights; gives whether the code table was among them.

    source: a folder with config.json and model.safetensors as `save_pretrained` writes them, or a
    name on the hub, which is downloaded. The code table is taken where it has as many rows as the
    codebook has codes (GPT-2 has 50,257, as the thesis' codebook). UserError where nothing is
    found, or sizes differ.
    """
    theirs = _published(source)
    mine, config = trunk.model, trunk.model.config
    for name in ("n_layer", "n_head", "n_embd"):
        found, wanted = getattr(theirs.config, name), getattr(config, name)
        if found != wanted:
            raise UserError(
                f"transformer.pretrained = {source}: its {name} is {found} and the transformer's "
                f"{wanted}; choose the transformer_type, or the sizes, that were published"
            )
    mine.h.load_state_dict(theirs.h.state_dict())
    mine.ln_f.load_state_dict(theirs.ln_f.state_dict())
    published = theirs.wpe.weight
    kept = min(len(published), len(mine.wpe.weight))
    mine.wpe.weight.normal_(std=float(published.std()))
    mine.wpe.weight[:kept] = published[:kept]
    if theirs.wte.weight.shape != mine.wte.weight.shape:
        return False
    mine.wte.weight.copy_(theirs.wte.weight)
    return True


def _published(source: str) -> nn.Module:
    repair_torchvision()
    from transformers import GPT2Model

    folder = Path(source)
    looks_local = folder.is_absolute() or source.startswith(".") or folder.exists()
    if looks_local and not (folder / "config.json").is_file():
        raise UserError(
            f"transformer.pretrained = {source}: no config.json there; expected a folder that "
            "transformers' save_pretrained wrote, or a name on the hub such as gpt2"
        )
    try:  # safetensors only: a pickle from outside is never opened
        return GPT2Model.from_pretrained(source, use_safetensors=True, local_files_only=looks_local)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"transformer.pretrained = {source} cannot be loaded ({reason}); name a folder with "
            'config.json and model.safetensors, a name on the hub, or "" to start from nothing'
        ) from None


def _gpt2(config: GptConfig, vocabulary: int) -> nn.Module:
    repair_torchvision()
    from transformers import AttentionInterface, GPT2Config, GPT2Model

    AttentionInterface.register(NAME, frame_window_attention)
    hf_config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=config.positions,
        n_embd=config.n_embd,
        n_layer=config.n_layer,
        n_head=config.n_head,
        embd_pdrop=config.embd_pdrop,
        resid_pdrop=config.resid_pdrop,
        attn_pdrop=config.attn_pdrop,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation=NAME if config.whole else "sdpa",
        use_cache=False,
    )
    hf_config.positions_per_frame = config.positions_per_frame
    hf_config.window = config.window
    return GPT2Model(hf_config)
