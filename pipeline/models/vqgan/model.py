"""The tokenizer: images to codebook indices and back (VQ-GAN without its losses).

Images are float `B 3 H W` in [-1, 1]; codes are int64 `B N`, N = (H/s)(W/s), row by row.
"""

import torch
from torch import nn

from pipeline.config import Vqgan as Settings
from pipeline.models.vqgan.autoencoder import Decoder, Encoder, stride
from pipeline.models.vqgan.quantizers import (
    QUANTIZERS,
    Quantized,
    TokenGrid,
    principal_axes,
)


class Tokenizer(TokenGrid):
    """Encoder, quantizer and decoder for images of one size."""

    def __init__(self, settings: Settings, height: int, width: int) -> None:
        super().__init__()
        sizes, dim = settings.autoencoder, settings.vqvae.embedding_dim
        side = stride(sizes)
        self.grid = (height // side, width // side)  # h w
        self.encoder = Encoder(sizes, max(height, width))
        self.before = nn.Conv2d(sizes.z_channels, dim, 1)
        self.quantizer = QUANTIZERS[settings.vqvae.quantizer](settings.vqvae)
        self.after = nn.Conv2d(dim, sizes.z_channels, 1)
        self.decoder = Decoder(sizes, max(height, width))
        self.linear_skip = LinearSkip(side, dim) if sizes.architecture == "fast" else None
        if self.linear_skip is not None:  # the networks start as corrections of the linear path
            for layer in (self.before, self.decoder.out):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def checkpoint_gradients(self, wanted: bool) -> None:
        """Whether training forgets the insides of each layer and computes them again backwards."""
        self.encoder.layers.checkpointing = self.decoder.layers.checkpointing = wanted

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Images `B 3 H W` to what is quantized, `B D h w`."""
        features = self.before(self.encoder(images))  # B D h w
        if self.linear_skip is not None:
            features = features + self.linear_skip.encode(images)
        return features

    def quantize(self, images: torch.Tensor, generator: torch.Generator) -> Quantized:
        return self.quantizer(self.features(images), generator)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images `B 3 H W` to codes `B N`."""
        assert not self.training, "encode() in training mode would move the codebook"
        return self.quantize(images, torch.Generator()).codes.flatten(1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `B N` to images `B 3 H W`, clamped to [-1, 1]."""
        return self.decode_vectors(nn.functional.embedding(codes, self.codebook))

    def decode_vectors(self, vectors: torch.Tensor) -> torch.Tensor:
        """Codebook vectors, or means of them, `B N D` to images `B 3 H W` in [-1, 1]."""
        maps = vectors.movedim(-1, 1).unflatten(2, self.grid)  # B N D -> B D h w
        return self.decode_features(maps).float().clamp(-1, 1)

    def decode_features(self, quantized: torch.Tensor) -> torch.Tensor:
        """Quantized maps `B D h w` to images, not clamped: what the losses see."""
        images = self.decoder(self.after(quantized))
        if self.linear_skip is not None:
            images = images + self.linear_skip.decode(quantized)
        return images


class LinearSkip(nn.Module):
    """Linear path from each token's pixels to its features and back.

    A linear path around both networks, as the space-to-channel shortcuts of Chen et al., Deep
    Compression Autoencoder (2024, arXiv:2410.10733); here learned, and started from the principal
    components of the training pictures, so that the first step already draws recognisable pictures.

    On the way back each token reaches half a token into its neighbours. That part starts at zero;
    what it learns are the overlaps without which the tokens' borders show as a grid of squares.
    """

    def __init__(self, stride: int, dim: int) -> None:
        super().__init__()
        self.margin = stride // 2
        self.encode = nn.Conv2d(3, dim, stride, stride)
        side = stride + 2 * self.margin
        self.decode = nn.ConvTranspose2d(dim, 3, side, stride, padding=self.margin)

    @torch.no_grad()
    def start(self, images: torch.Tensor) -> None:
        """Principal components of the patches of `B 3 H W`; surplus features start at zero."""
        dim, _, side, _ = self.encode.weight.shape
        patches = nn.functional.unfold(images.float(), side, stride=side)  # B 3ss hw
        patches = patches.movedim(1, -1).flatten(0, 1)  # Bhw 3ss
        mean = patches.mean(0)
        kernel = principal_axes(patches - mean, dim).unflatten(1, (3, side, side))
        colour = mean.unflatten(0, (3, -1)).mean(1)  # all that a bias of `decode` can give back
        self.encode.weight.copy_(kernel)
        self.encode.bias.copy_(-kernel.sum((2, 3)) @ colour)
        self.decode.weight.copy_(nn.functional.pad(kernel, (self.margin,) * 4))
        self.decode.bias.copy_(colour)
