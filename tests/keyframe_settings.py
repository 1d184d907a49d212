"""A small tokenizer with keyframes as context, pictures for it, and both networks untrained."""

import torch
from tiny_settings import small_params

from pipeline import config, frames
from pipeline.inference.inbetweener import InBetweener
from pipeline.models.flow import Context, Easing, Flow, FlowEstimator, make_context
from pipeline.models.gpt.model import FrameGpt, GptConfig
from pipeline.models.vqgan.keyframes import KeyframeTokenizer

CPU = torch.device("cpu")
HEIGHT, WIDTH = 32, 64  # 2x4 tokens of 16x16 pixels
SMALL = {
    "base": {"threads": 1},
    "ingest": {"height": HEIGHT, "width": WIDTH},
    "clip_chunk": {"min_frames": 5, "max_frames": 12},
    "flow": {"method": "dis"},
    "vqgan": {
        "channels": 8,
        "vqvae": {"num_embeddings": 16, "embedding_dim": 6},
        "discriminator": {"num_layers": 1, "filters": 4},
        "loss": {"perceptual_loss": "none", "perceptual_subset": 0},
        "trainer": {"batch_size": 4, "n_epochs": 2},
    },
    "transformer": {"transformer_type": "plain", "n_layer": 2, "n_head": 2, "n_embd": 16},
    "train": {"batch_size": 2},
}


def settings(changes: dict | None = None) -> config.Params:
    """params.yaml made small, with dotted keys changed."""
    return small_params(SMALL, changes)


def tokenizer(changes: dict | None = None, seed: int = 0) -> KeyframeTokenizer:
    """Untrained, its codes started from the differences of two clips; in evaluation mode."""
    config = settings(changes)
    torch.manual_seed(seed)
    size = config.ingest.height, config.ingest.width
    model = KeyframeTokenizer(config.vqgan, *size, config.flow.method).eval()
    differences = []
    for speed in (2, 3):
        clip = square_clip(7, speed, *size)
        context = clip_context(clip)
        differences.append(frames.to_float(clip[1:-1]) - context.eased)
    model.init_from_data(torch.cat(differences), torch.Generator().manual_seed(0))
    return model


def randomize(model: torch.nn.Module, std: float = 0.05) -> None:
    """Gives the layers that start at zero weights, so that all of the network counts."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if not weight.any():
                weight.copy_(std * torch.randn(weight.shape, generator=generator))


def square_clip(n: int, speed: int = 2, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """uint8 `n H W 3`: a textured square goes to the right over a slope, faster in the middle."""
    texture = torch.randint(90, 256, (10, 10, 3), generator=torch.Generator().manual_seed(speed))
    slope = (torch.arange(width)[None, :, None] + torch.arange(height)[:, None, None]) // 2
    clip = slope.expand(n, height, width, 3).clone().clamp(max=255).byte()
    for i in range(n):
        time = i / (n - 1)
        done = time**2 / (time**2 + (1 - time) ** 2)
        left = 6 + round(done * speed * (n - 1))
        clip[i, 8:18, left : left + 10] = texture.byte()
    return clip


def clip_flow(clip: torch.Tensor) -> Flow:
    return FlowEstimator("dis")(clip[0].numpy(), clip[-1].numpy())


def clip_context(clip: torch.Tensor, exponent: float = 1.5) -> Context:
    """Of the inner frames of a clip uint8 `n H W 3`."""
    n = len(clip)
    time = (torch.arange(1, n - 1) / (n - 1)).view(-1, 1, 1, 1)
    ends = [frames.to_float(clip[k][None]).expand(n - 2, -1, -1, -1) for k in (0, -1)]
    return make_context(*ends, clip_flow(clip), time, torch.tensor(exponent))


def in_betweener(
    changes: dict | None = None, model: KeyframeTokenizer | None = None
) -> InBetweener:
    """Both networks untrained; the transformer's choice is code 0, as it mostly is in data."""
    config = settings(changes)
    model = model or tokenizer(changes)
    torch.manual_seed(1)
    gpt = FrameGpt(GptConfig.from_params(config, model.grid, model.context_channels)).eval()
    counts = torch.zeros(config.vqgan.vqvae.num_embeddings)
    counts[0] = 10_000
    gpt.init_bias(counts)
    return InBetweener(
        model, gpt, config.ingest.frame_size, CPU, "float32", "dis", Easing(0.5, 0.2)
    )
