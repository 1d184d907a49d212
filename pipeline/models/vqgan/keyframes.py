"""The tokenizer with context: token ids for what the warped keyframes lack.

    encode(images, context) -> ids        what of the frame differs from the eased warp, by patch
    decode(ids, context)    -> images     a mix of warped keyframes, corrected, and a residual

Letters: B batch, N tokens a frame, V codes, D dimensions of a code. Images are float `B 3 H W` in
[-1, 1], a `Context` is that of `models.flow`. Conditioning encoder and decoder on other frames:
Micheli et al., "Efficient World Models with Context-Aware Tokenization" (Delta-IRIS, 2024,
arXiv:2406.19320); here the other frames are both keyframes.

Codes start linear: D principal components of the differences' patches, k-means among those. Code 0
is pinned to zero, "as the eased warp". Id V is the null code, "unknown": there the decoder is on
its own, a learnt interpolator. It starts as exactly the eased warp plus the difference that the
codes say: nothing is worse than the start.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.config import Vqgan as Settings
from pipeline.models.flow import Context, resize_flow, warp
from pipeline.models.vqgan.quantizers import QUANTIZERS, Quantized, TokenGrid, principal_axes

PIXELS = 4  # a side, that the decoder's finest level sees as channels
# Logits of the last two candidates before training, the eased warp and that with the codes'
# difference added. The others have 0. What is shown then is the last one, whatever they say.
START_LOGITS = (4.0, 5.0)
OUTPUT_GAIN = 4.0  # of the last layer, which starts at zero: learns faster under Adam
MAX_CORRECTION = 16.0  # pixels by which a unit of the last layer corrects the flow


class DecoderOutput(NamedTuple):
    """How a frame is composed, at the model's size."""

    mix: torch.Tensor  # B K H W, shares of the candidates, which add up to 1
    residual: torch.Tensor  # B 3 H W
    correction: torch.Tensor  # B 4 H W: of the flow to the first and to the last, in pixels
    difference: torch.Tensor  # B 3 H W: what the codes say


class KeyframeTokenizer(TokenGrid):
    """Encoder, quantizer and decoder for frames between two keyframes."""

    def __init__(
        self, settings: Settings, height: int, width: int, flow_method: str = "dis"
    ) -> None:
        """flow_method: with `rife` and `mixed` frames are mixed of RIFE's warps, too."""
        super().__init__()
        patch, dim = settings.patch_size, settings.vqvae.embedding_dim
        self.grid = (height // patch, width // patch)  # h w
        # Principal components of the differences' patches, and their transpose: linear, no bias,
        # so that no difference has the zero vector, and that no pixels.
        self.to_vectors = nn.Conv2d(3, dim, patch, patch, bias=False)
        self.to_difference = nn.ConvTranspose2d(dim, 3, patch, patch, bias=False)
        self.encoder = None
        if settings.keyframes.encoder == "network":
            self.encoder = EncoderNetwork(settings.channels, dim, self.grid)
        else:
            self.to_vectors.requires_grad_(False)
            self.to_difference.requires_grad_(False)
        self.quantizer = QUANTIZERS[settings.vqvae.quantizer](settings.vqvae)
        self.decoder = Synthesis(settings.channels, with_rife=flow_method != "dis")

    @property
    def null_code(self) -> int:
        """The id of an unknown token."""
        return len(self.codebook)

    @property
    def context_channels(self) -> int:
        """C of the features that condition the transformer."""
        return self.decoder.coarse_channels

    @torch.no_grad()
    def init_from_data(self, differences: torch.Tensor, generator: torch.Generator) -> None:
        """Principal components and codes from differences of many frames, `B 3 H W`."""
        dim, _, patch, _ = self.to_vectors.weight.shape
        patches = F.unfold(differences.float(), patch, stride=patch)  # B 3pp N
        patches = patches.movedim(1, -1).flatten(0, 1)  # BN 3pp
        changed = patches[patches.abs().mean(1) > 0.02]
        patches = changed if len(changed) >= dim else patches
        # no mean is taken off, so that zero stays zero
        axes = principal_axes(patches, dim).unflatten(1, (3, patch, patch))  # D 3 p p
        self.to_vectors.weight.copy_(axes)
        self.to_difference.weight.copy_(axes)
        vectors = patches @ axes.flatten(1).T
        self.quantizer.init_from_data(vectors, generator)
        self.pin_first_code()

    @torch.no_grad()
    def pin_first_code(self) -> None:
        """Code 0 stays "as the eased warp", wherever training moves the codebook."""
        self.quantizer.codebook[0] = 0

    def quantize(
        self, images: torch.Tensor, context: Context, generator: torch.Generator
    ) -> Quantized:
        """What of `images` differs from the eased warp, as codes."""
        difference = images - context.eased
        with torch.autocast(images.device.type, enabled=False):  # bf16 confuses near codes
            vectors = self.to_vectors(difference.float())  # B D h w
        if self.encoder is None:
            self.quantizer.eval()  # codes are as k-means left them
        else:
            vectors = vectors + self.encoder(difference, context)
        quantized = self.quantizer(vectors, generator)
        if self.quantizer.training:  # the codebook moved, for the next batch of this step too
            self.pin_first_code()
        return quantized

    def encode(self, images: torch.Tensor, context: Context) -> torch.Tensor:
        """Images `B 3 H W` to ids `B N`, row by row."""
        assert not self.training, "encode() in training mode would move the codebook"
        return self.quantize(images, context, torch.Generator()).codes.flatten(1)

    def decode(
        self, ids: torch.Tensor, context: Context, output: Context | None = None
    ) -> torch.Tensor:
        """Ids `B N`, null codes among them, to images `B 3 H W`, clamped to [-1, 1].

        output: the context of the same frames at the size of the output; by default the model's.
        """
        return compose(self.decode_parts(ids, context), output or context).clamp(-1, 1)

    def decode_parts(self, ids: torch.Tensor, context: Context) -> DecoderOutput:
        """Ids `B N`, null codes among them, to how the frames are composed."""
        known = (ids != self.null_code).unflatten(1, self.grid)[:, None].float()  # B 1 h w
        vectors = F.embedding(ids.clamp(max=self.null_code - 1), self.codebook)  # B N D
        return self.forward(vectors.movedim(-1, 1).unflatten(2, self.grid), known, context)

    def forward(
        self, vectors: torch.Tensor, known: torch.Tensor, context: Context
    ) -> DecoderOutput:
        """Quantized vectors `B D h w` to how the frames are composed.

        known: `B 1 h w`, 1 where the decoder gets the code, 0 where it has to do without.
        """
        with torch.autocast(vectors.device.type, enabled=False):
            difference = self.to_difference(vectors.float() * known)  # B 3 H W
        return self.decoder(context, difference, known)

    def context_features(self, context: Context) -> torch.Tensor:
        """What the decoder sees of the context, without codes, on the token grid: `B N C`."""
        nothing = torch.zeros_like(context.eased)
        known = nothing[:, :1, : self.grid[0], : self.grid[1]]
        _, coarse = self.decoder.encode(context, nothing, known)
        return F.adaptive_avg_pool2d(coarse.float(), self.grid).flatten(2).transpose(1, 2)


def compose(output: DecoderOutput, context: Context) -> torch.Tensor:
    """The frame `B 3 H W`, at the size of `context`: masks and flow are enlarged, images are not.

    So the result keeps the resolution of the keyframes that are given.
    """
    size = context.first.shape[-2:]
    mix, residual, difference = output.mix, output.residual, output.difference
    if residual.shape[-2:] != size:
        mix = F.interpolate(mix, size, mode="bilinear")
        residual = F.interpolate(residual, size, mode="bilinear")
        difference = F.interpolate(difference, size, mode="bilinear")
    to_first, to_last = output.correction.split(2, 1)
    warped_first = warp(context.first, context.to_first + resize_flow(to_first, size))
    warped_last = warp(context.last, context.to_last + resize_flow(to_last, size))
    candidates = [context.first, context.last, warped_first, warped_last, *context.images[4:]]
    candidates.append(context.eased + difference)
    frame = residual
    for k, candidate in enumerate(candidates):
        frame = frame + mix[:, k : k + 1] * candidate
    return frame


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.gelu(self.conv1(self.norm(x))))


class Synthesis(nn.Module):
    """The decoder: a small U-Net over the candidates, at 1/4, 1/8 and 1/16 of the size."""

    def __init__(self, channels: int, with_rife: bool) -> None:
        super().__init__()
        c = channels
        # first, last, both warped, [two of RIFE], eased warp, eased warp + difference
        self.candidates = 8 if with_rife else 6
        self.coarse_channels = 2 * c
        self.inputs = nn.Conv2d(3 * self.candidates * PIXELS**2 + 2, c, 1)
        self.fine = ResidualBlock(c)
        self.down = nn.Conv2d(c, 2 * c, 2, 2)
        self.coarse = ResidualBlock(2 * c)
        self.down_again = nn.Conv2d(2 * c, 3 * c, 2, 2)
        self.deep = nn.Sequential(ResidualBlock(3 * c), ResidualBlock(3 * c))
        self.up_deep = nn.ConvTranspose2d(3 * c, 2 * c, 2, 2)
        self.middle = ResidualBlock(2 * c)
        self.up = nn.ConvTranspose2d(2 * c, c, 2, 2)
        self.top = nn.Sequential(ResidualBlock(c), ResidualBlock(c))
        self.masks = nn.Conv2d(c, (self.candidates + 3) * PIXELS**2, 1)
        self.correction = nn.Conv2d(c, 4, 3, padding=1)
        for layer in (self.masks, self.correction):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def last_layer(self) -> nn.Parameter:
        """Where the adaptive weight compares gradients (thesis, eq. 7)."""
        return self.masks.weight

    def encode(
        self, context: Context, difference: torch.Tensor, known: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features `B c H/4 W/4` and `B 2c H/8 W/8` of the candidates."""
        candidates = torch.cat([*context.images, context.eased + difference], 1)  # B 3K H W
        x = F.pixel_unshuffle(candidates, PIXELS)  # B 48K H/4 W/4
        known = F.interpolate(known, x.shape[2:], mode="nearest")
        x = torch.cat([x, context.time.expand(-1, 1, *x.shape[2:]), known], 1)
        fine = self.fine(self.inputs(x))
        return fine, self.coarse(self.down(fine))

    def forward(
        self, context: Context, difference: torch.Tensor, known: torch.Tensor
    ) -> DecoderOutput:
        fine, coarse = self.encode(context, difference, known)
        coarse = coarse + self.up_deep(self.deep(self.down_again(coarse)))
        top = self.top(fine + self.up(self.middle(coarse)))  # B c H/4 W/4
        out = OUTPUT_GAIN * F.pixel_shuffle(self.masks(top), PIXELS).float()  # B K+3 H W
        k = self.candidates
        logits = out.new_tensor((*[0.0] * (k - 2), *START_LOGITS)).view(1, k, 1, 1)
        start = out.new_tensor((*[0.0] * (k - 1), 1.0)).view(1, k, 1, 1)
        # Exactly `start` where the network gives zero, and with sums of 1 everywhere.
        mix = start + (out[:, :k] + logits).softmax(1) - logits.softmax(1)
        correction = MAX_CORRECTION * self.correction(top).float()  # B 4 H/4 W/4
        correction = F.interpolate(correction, scale_factor=PIXELS, mode="bilinear")
        return DecoderOutput(mix, out[:, k:] / OUTPUT_GAIN, correction, difference)


class EncoderNetwork(nn.Module):
    """What is to be added to the linear vectors; starts at zero."""

    def __init__(self, channels: int, dim: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.inputs = nn.Conv2d(3 * 4 * PIXELS**2, channels, 1)
        self.blocks = nn.Sequential(ResidualBlock(channels), ResidualBlock(channels))
        self.out = nn.Conv2d(channels, dim, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, difference: torch.Tensor, context: Context) -> torch.Tensor:
        """`B 3 H W` to `B D h w`."""
        inputs = [difference, context.warped_first, context.warped_last, context.eased]
        x = self.blocks(self.inputs(F.pixel_unshuffle(torch.cat(inputs, 1), PIXELS)))
        return self.out(F.adaptive_avg_pool2d(x, self.grid))
