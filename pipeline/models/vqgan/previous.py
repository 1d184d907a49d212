"""The tokenizer with the previous frame as context: token ids for what moves, and where to.

    encode(images, previous)          -> ids       from where each patch of the frame comes
    decode(ids, previous, keyframes)  -> images    the previous frame, moved by the codes, refined

Letters: B batch, N tokens a frame, V codes, one for each shift, D dimensions of a code, h w the
token grid. Images are float `B 3 H W` in [-1, 1]. Conditioning on the previous frame: Micheli et
al. (Delta-IRIS, 2024, arXiv:2406.19320). A motion that goes on has the same codes in each frame, so
the transformer has little to predict. The price: frames are decoded one after the other.

A code is a motion vector, found by block matching as in video codecs: the shift by whole pixels, up
to REACH, by which the previous frame explains a patch and its surroundings best. A learnt
encoder's codes knew less: its digits rather than where they go (docs/results/moving_mnist.md).

The decoder mixes the previous frame, shifted by every code's way, by weights for each cell of CELL
pixels (Finn et al., 2016, arXiv:1605.07157), in two layers that are added, because two things may
move across each other. It begins as the copy that the codes ask for.

A copy of a copy fades. So each frame is refined by what the clip's two keyframes show of the same
things: its patches are found again in both, and mixed with what is found (reference frames, as in
restoration: Zheng et al., CrossNet, 2018, arXiv:1807.10547).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.config import Vqgan as Settings
from pipeline.models.vqgan.keyframes import ResidualBlock
from pipeline.models.vqgan.quantizers import TokenGrid

CELL = 4  # pixels a side that are moved alike, and that the networks see as channels
REACH = 4  # pixels; Moving MNIST's digits go 3.6 a frame
STEPS = 2 * REACH + 1  # of a shift, up and down or to the sides
SHIFTS = STEPS**2  # V
STAYS = SHIFTS // 2  # the code of no motion
SAME = (
    1e-4  # mean squared error on [-1, 1] below which a patch has not moved, whatever is around it
)
AT_ONCE = 64  # images whose shifts are compared at once; 90 MB of 64x64
SURROUNDINGS = 1  # cells about a patch by which its motion is found, too
LAYERS = 2  # of things that move, each with weights of its own
CODE_LOGIT = 12.0  # of the shift that the code says, at the start: nearly all of its layer
STRENGTHS = (5.0, -5.0)  # of the layers at the start: sigmoids that add up to 1
BLOCKS = 3  # residual blocks of the decoder that see the codes
BLACK = -1.0
WINDOW = 12  # pixels a side, at half the size, by which a place is found again in another frame
PEAKS, PEAK_RADIUS = 2, 2  # best matches of a patch, and how near to one no other is taken
MARGIN = 4  # pixels about a patch that are compared, too, when a match is aligned to the pixel
N_KEYFRAMES = 2
N_COPIES = N_KEYFRAMES * PEAKS  # of a frame, made of patches of the keyframes
PERIODS = (128.0, 64.0, 32.0, 16.0, 8.0)  # pixels
MATCH_CHANNELS = PEAKS * (3 + 4 * len(PERIODS) + 2 * STEPS)


class PreviousTokenizer(TokenGrid):
    """Block matching, decoder and refiner for frames that follow a known one."""

    def __init__(self, settings: Settings, height: int, width: int) -> None:
        super().__init__()
        c = settings.channels
        self.patch, self.colours = settings.patch_size, 1 if settings.previous.grey else 3
        self.grid = (height // self.patch, width // self.patch)  # h w
        self.quantizer = None
        self.register_buffer("shift_vectors", shift_vectors(), persistent=False)
        self.decoder = Decoder(c, self.shift_vectors.shape[1], self.colours)
        self.refiner = Refiner(c, self.colours, self.grid)

    @property
    def codebook(self) -> torch.Tensor:
        return self.shift_vectors  # V D

    @property
    def context_channels(self) -> int:
        """C of the features that condition the transformer."""
        return self.colours * self.patch**2 + MATCH_CHANNELS

    @torch.no_grad()
    def encode(self, images: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        """Images `B 3 H W` and those before them to ids `B N`, row by row."""
        ids, stride = [], self.patch // CELL
        for image, before in zip(images.split(AT_ONCE), previous.split(AT_ONCE), strict=True):
            image, before = image.float().mean(1, True), before.float().mean(1, True)
            error = shift(before) - cells(image)[:, None]  # B V 1 H/c c W/c c
            error = error.square().mean((2, 4, 6))  # B V H/c W/c
            unmoved = F.avg_pool2d(error[:, STAYS, None], stride)[:, 0] < SAME  # B h w
            padded = F.pad(error, (SURROUNDINGS,) * 4, mode="replicate")
            error = F.avg_pool2d(padded, stride + 2 * SURROUNDINGS, stride)  # B V h w
            codes = (error + tie_breaker(error.device)).argmin(1)  # B h w
            ids.append(codes.masked_fill(unmoved, STAYS).flatten(1))  # B N
        return torch.cat(ids)

    def decode(
        self, ids: torch.Tensor, previous: torch.Tensor, keyframes: torch.Tensor
    ) -> torch.Tensor:
        """Ids `B N` and the frames before, `B 3 H W`, to images `B 3 H W`, clamped to [-1, 1].

        keyframes: of the clip, `B 2 3 H W`, first the one from which the frames are drawn.
        """
        return self.refine(self.forward(ids, previous), keyframes).clamp(-1, 1)

    def refine(self, images: torch.Tensor, keyframes: torch.Tensor) -> torch.Tensor:
        """Moved images `B 3 H W` by what the keyframes `B 2 3 H W` show of them, not clamped."""
        images = self._colours(images).clamp(-1, 1)
        keyframes = self._colours(keyframes.flatten(0, 1)).unflatten(0, keyframes.shape[:2])
        return self.refiner(images, keyframes).expand(-1, 3, -1, -1)

    @torch.no_grad()
    def encode_sequence(
        self, images: torch.Tensor, n_frames: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The frames 0..K and the last one of clips to token ids and the transformer's features.

        images: `B K+2 3 H W`; n_frames: `B`. Ids `B K+2 N` are 0 for both given frames. Features
        `B T N C`, T the longest: beside frame i stand those of frame i-1, from which it is
        predicted, beside a clip's last frame its own, and zeros elsewhere.
        """
        before, after = images[:, :-2], images[:, 1:-1]  # B K 3 H W
        codes = self.encode(after.flatten(0, 1), before.flatten(0, 1))
        ids = F.pad(codes.unflatten(0, before.shape[:2]), (0, 0, 1, 1))  # B K+2 N
        return ids, self.sequence_features(before, images[:, -1], n_frames)

    def sequence_features(
        self, frames: torch.Tensor, last: torch.Tensor, n_frames: torch.Tensor
    ) -> torch.Tensor:
        """What the transformer sees of the frames 0..K-1, `B K 3 H W`, and the last one: `B T N C`.

        Of `encode_sequence`'s form.
        """
        frames = torch.cat([frames, last[:, None]], 1)  # B K+1 3 H W
        last = last[:, None].expand_as(frames)
        number = torch.arange(frames.shape[1], device=frames.device)
        remaining = n_frames[:, None] - 1 - number  # B K+1: steps to the last frame
        remaining[:, -1] = 0
        parts = (x.flatten(0, 1).split(AT_ONCE) for x in (frames, last, remaining))
        pairs = zip(*parts, strict=True)
        matched = torch.cat([self.context_features(*pair) for pair in pairs])
        matched = matched.unflatten(0, frames.shape[:2])  # B K+1 N C
        features = matched.new_zeros(len(last), int(n_frames.max()), *matched.shape[2:])
        features[:, 1 : frames.shape[1]] = matched[:, :-1]
        features[torch.arange(len(last)), n_frames - 1] = matched[:, -1]
        return features

    def forward(self, ids: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        """Ids `B N` and the frames before to images `B 3 H W`, not clamped."""
        previous = self._colours(previous)
        vectors = F.embedding(ids, self.codebook).movedim(-1, 1).unflatten(2, self.grid)
        chosen = F.one_hot(ids, SHIFTS).movedim(-1, 1).unflatten(2, self.grid)  # B V h w
        weights, residual = self.decoder(vectors, chosen, previous)
        shifted = shift(previous - BLACK)  # B V C H/c c W/c c
        moved = (weights[:, :, None, :, None, :, None] * shifted).sum(1)  # B C H/c c W/c c
        moved = moved.flatten(4, 5).flatten(2, 3) + BLACK
        return (moved + residual).expand(-1, 3, -1, -1)

    def context_features(
        self, images: torch.Tensor, last: torch.Tensor, remaining: torch.Tensor
    ) -> torch.Tensor:
        """What the transformer sees of frames `B 3 H W`, whose clips end with `last`: `B N C`.

        The pixels of each patch, and where in the last frame, `remaining` (`B`) steps away, it is
        found again.
        """
        patches = F.pixel_unshuffle(self._colours(images), self.patch).flatten(2)
        with torch.autocast(images.device.type, enabled=False):  # bf16 confuses near matches
            grey = images.float().mean(1), last.float().mean(1)  # B H W
            matches = match_features(*grey, remaining, self.grid)
        return torch.cat([patches.transpose(1, 2), matches], 2)

    def _colours(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(1, keepdim=True) if self.colours == 1 else images


class Decoder(nn.Module):
    """Weights of the shifts for each cell, and a residual."""

    def __init__(self, channels: int, dim: int, colours: int) -> None:
        super().__init__()
        self.inputs = nn.Conv2d(colours * CELL**2, channels, 3, padding=1)
        self.code = nn.Conv2d(dim, channels, 3, padding=1)
        self.code_again = nn.Conv2d(dim, channels, 3, padding=1)
        self.first = ResidualBlock(channels)
        self.blocks = nn.Sequential(*[ResidualBlock(channels) for _ in range(BLOCKS)])
        self.weights = nn.Conv2d(channels, LAYERS * (SHIFTS + 1), 1)
        self.residual = nn.Conv2d(channels, colours * CELL**2, 3, padding=1)
        for layer in (self.weights, self.residual):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.weights.bias.view(LAYERS, -1)[:, -1] = torch.tensor(STRENGTHS)

    @property
    def last_layer(self) -> nn.Parameter:
        """Where the adaptive weight compares gradients (thesis, eq. 7)."""
        return self.residual.weight

    def forward(
        self, vectors: torch.Tensor, chosen: torch.Tensor, previous: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`B D h w` and `B C H W` to weights `B V H/c W/c` and a residual `B C H W`.

        chosen: `B V h w`, 1 for the shift that a token's code is.
        """
        x = self.inputs(F.pixel_unshuffle(previous, CELL))  # B c H/4 W/4
        x = self.first(x + F.interpolate(self.code(vectors), x.shape[2:]))
        x = self.blocks(x + F.interpolate(self.code_again(vectors), x.shape[2:]))
        chosen = F.interpolate(CODE_LOGIT * chosen.float(), x.shape[2:])
        others = chosen.new_zeros(len(chosen), (LAYERS - 1) * (SHIFTS + 1) + 1, *x.shape[2:])
        weights = mixing_weights(self.weights(x).float() + torch.cat([chosen, others], 1))
        return weights, F.pixel_shuffle(self.residual(x).float(), CELL)


class Refiner(nn.Module):
    """Mixes an image with copies of it that are made of keyframes, and adds a residual.

    For each cell and in LAYERS that are added, like the decoder's.
    """

    def __init__(self, channels: int, colours: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        inputs = (1 + N_COPIES) * colours * CELL**2 + 2 * N_COPIES
        self.inputs = nn.Conv2d(inputs, channels, 3, padding=1)
        self.blocks = nn.Sequential(*[ResidualBlock(channels) for _ in range(BLOCKS)])
        self.weights = nn.Conv2d(channels, LAYERS * (2 + N_COPIES), 1)
        self.residual = nn.Conv2d(channels, colours * CELL**2, 3, padding=1)
        for layer in (self.weights, self.residual):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():  # it begins as the image, nearly
            bias = self.weights.bias.view(LAYERS, -1)
            bias[:, 0] = 8.0
            bias[:, -1] = torch.tensor(STRENGTHS)

    def forward(self, images: torch.Tensor, keyframes: torch.Tensor) -> torch.Tensor:
        """`B C H W` and the keyframes `B 2 C H W` to images `B C H W`."""
        with torch.autocast(images.device.type, enabled=False):
            of_first = copy_patches(images, keyframes[:, 0], self.grid)
            of_last = copy_patches(images, keyframes[:, 1], self.grid)
        copies = torch.cat([of_first[0], of_last[0]], 1)  # B K C H W
        quality = torch.cat([of_first[1], of_last[1]], 1)  # B K h w
        error = F.avg_pool2d((copies - images[:, None]).abs().mean(2), CELL)  # B K H/c W/c
        sources = torch.cat([images[:, None], copies], 1)  # B K+1 C H W
        pixels = F.pixel_unshuffle(sources.flatten(1, 2), CELL)
        features = torch.cat([pixels, F.interpolate(quality, error.shape[2:]), error], 1)
        x = self.blocks(self.inputs(features))
        weights = mixing_weights(self.weights(x))  # B K+1 H/c W/c
        weights = weights.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3)
        mixed = (weights[:, :, None] * (sources - BLACK)).sum(1) + BLACK
        return mixed + F.pixel_shuffle(self.residual(x).float(), CELL)


def mixing_weights(logits: torch.Tensor) -> torch.Tensor:
    """Logits `B L(K+1) h w` to the weights of K things, `B K h w`: the sum of L layers.

    Each layer is a softmax over the things, times a strength.
    """
    layers = logits.float().unflatten(1, (LAYERS, -1))  # B L K+1 h w
    return (layers[:, :, :-1].softmax(2) * layers[:, :, -1:].sigmoid()).sum(1)


def cells(images: torch.Tensor) -> torch.Tensor:
    """`B C H W` as cells: `B C H/c c W/c c`."""
    return images.unflatten(3, (-1, CELL)).unflatten(2, (-1, CELL))


def shift(images: torch.Tensor) -> torch.Tensor:
    """`B C H W` shifted by up to REACH pixels: `B V C H/c c W/c c`; edges are replicated."""
    batch, colours, height, width = images.shape
    padded = F.pad(images, (REACH,) * 4, mode="replicate")
    shifted = F.unfold(padded, STEPS)  # B CK HW
    shifted = shifted.view(batch, colours, SHIFTS, height, width).transpose(1, 2)
    return shifted.unflatten(4, (-1, CELL)).unflatten(3, (-1, CELL))


def shift_vectors() -> torch.Tensor:
    """A vector for each shift, `V D`: bumps about row and column, so that near ones are alike.

    In the order of `shift`.
    """
    number = torch.arange(SHIFTS)
    places = torch.stack([number // STEPS, number % STEPS], 1).float()  # V 2
    return bumps(places).flatten(1)


def bumps(places: torch.Tensor) -> torch.Tensor:
    """Places `...` among the STEPS as smooth one-hot vectors, `... STEPS`: near ones are alike."""
    steps = torch.arange(float(STEPS), device=places.device)
    return torch.exp(-0.5 * (places[..., None] - steps).square())


def tie_breaker(device: torch.device) -> torch.Tensor:
    """Added to the error of each shift, `V 1 1`: of those that fit nearly alike the shortest wins.

    Without, patches with next to nothing in them would get any code. At most 0.0032 of the mean
    squared error on [-1, 1]: one white pixel of a thousand.
    """
    steps = torch.arange(-REACH, REACH + 1.0, device=device).square()
    return 1e-4 * (steps[:, None] + steps).flatten()[:, None, None]


@torch.no_grad()
def match_patches(
    images: torch.Tensor, reference: torch.Tensor, grid: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where the surroundings of each token are found again in another frame, best first.

    images, reference: grey `B H W`, of which BLACK is empty. Windows are compared at half the size
    by their normalised correlation. Gives the PEAKS best correlations `B N P`, the corners of the
    places, row and column in pixels, `B N P 2`, and how far from there the peaks are, `B N P 2`: up
    to a pixel, by parabolas through the neighbouring correlations.
    """
    half = [F.avg_pool2d(x[:, None].float() - BLACK, 2) for x in (images, reference)]  # B 1 H/2 W/2
    height, width = half[1].shape[2:]
    stride = height // grid[0]
    before = (WINDOW - stride) // 2  # of a window, above and left of its token
    after = WINDOW - stride - before
    windows = F.unfold(F.pad(half[0], (before, after) * 2), WINDOW, stride=stride)  # B WW N
    places = F.unfold(F.pad(half[1], (before, WINDOW - 1 - before) * 2), WINDOW)  # B WW HW/4
    windows = windows / (windows.norm(dim=1, keepdim=True) + 0.2)
    correlation = windows.transpose(1, 2) @ places  # B N HW/4
    padded = F.pad(half[1].square(), (before, WINDOW - 1 - before) * 2)
    norms = F.avg_pool2d(padded, WINDOW, 1, divisor_override=1).clamp_min(0).sqrt()
    correlation = correlation / (norms.flatten(2) + 0.2)
    rows = torch.arange(height, dtype=torch.int16, device=images.device)[:, None]
    columns = torch.arange(width, dtype=torch.int16, device=images.device)
    surface, correlations, corners, offsets = correlation, [], [], []
    for _ in range(PEAKS):
        highest, index = correlation.max(2)  # B N
        place = torch.stack([index // width, index % width], 2)  # B N 2
        correlations.append(highest)
        corners.append(2 * place)
        offsets.append(2 * _peak_offset(surface, place, width))
        row, column = place.to(torch.int16)[..., None, None].unbind(2)  # B N 1 1
        near = ((rows - row).abs() <= PEAK_RADIUS) & ((columns - column).abs() <= PEAK_RADIUS)
        correlation = correlation.masked_fill(near.flatten(2), -1)
    return tuple(torch.stack(values, 2) for values in (correlations, corners, offsets))


def _peak_offset(surface: torch.Tensor, place: torch.Tensor, width: int) -> torch.Tensor:
    """How far from a place `B N 2` the peak of a surface `B N HW` lies, in its rows and columns."""
    last = torch.tensor([surface.shape[2] // width - 1, width - 1], device=place.device)

    def value(*step: int) -> torch.Tensor:
        there = (place + torch.tensor(step, device=place.device)).clamp_min(0).minimum(last)
        return surface.gather(2, there[..., :1] * width + there[..., 1:])[..., 0]  # B N

    centre, offsets = value(0, 0), []
    for step in ((1, 0), (0, 1)):
        low, high = value(-step[0], -step[1]), value(*step)
        curvature = (2 * centre - low - high).clamp_min(1e-6)
        offsets.append(((high - low) / (2 * curvature)).clamp(-0.5, 0.5))
    return torch.stack(offsets, 2)


@torch.no_grad()
def match_features(
    images: torch.Tensor, last: torch.Tensor, remaining: torch.Tensor, grid: tuple[int, int]
) -> torch.Tensor:
    """Where each token is found again in the last frame, for the transformer: `B N C`.

    images, last: grey `B H W`; remaining: `B`, steps from one to the other. Of the PEAKS best
    matches: the correlation, the displacement as it is and as sines and cosines, and the shift of
    each step that would lead there straight, in the form of the codes' vectors.
    """
    best, places, offsets = match_patches(images, last, grid)
    half = images.shape[1] // 2
    token = torch.arange(grid[0] * grid[1], device=images.device)
    corners = torch.stack([token // grid[1], token % grid[1]], 1) * (2 * half // grid[0])  # N 2
    displacement = places - corners[:, None] + offsets  # B N P 2, pixels
    frequencies = 2 * math.pi / torch.tensor(PERIODS, device=images.device)
    angles = (displacement[..., None] * frequencies).flatten(3)  # B N P 2F
    pace = displacement / remaining.clamp_min(1).view(-1, 1, 1, 1)  # pixels a step
    straight = bumps(REACH - pace).flatten(3)  # B N P 2*STEPS
    channels = [best[..., None], displacement / half, angles.sin(), angles.cos(), straight]
    return torch.cat(channels, 3).flatten(2)


@torch.no_grad()
def copy_patches(
    images: torch.Tensor, keyframe: torch.Tensor, grid: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Copies of images from patches of a keyframe, both `B C H W`, one for each of PEAKS matches.

    Each patch is taken where it is found again, to the pixel. Copies `B P C H W` and how well each
    patch is found, `B P h w`.
    """
    grey = images.float().mean(1), keyframe.float().mean(1)  # B H W
    best, places, _ = match_patches(*grey, grid)
    patch = images.shape[2] // grid[0]
    size, margin = patch + 2 * MARGIN, MARGIN + 1
    surroundings = F.pad(grey[0][:, None], (MARGIN,) * 4, mode="replicate")
    surroundings = F.unfold(surroundings, size, stride=patch)  # B SS N
    surroundings = surroundings.transpose(1, 2).unsqueeze(2)  # B N 1 SS
    padded = F.pad(keyframe.float(), (margin, size) * 2, mode="replicate")  # B C H' W'
    width, shown = padded.shape[3], padded.mean(1).flatten(1)
    corner = places[..., 0] * width + places[..., 1]  # B N P, one pixel above and left of a window
    window = _indices(size, width, images.device)  # SS
    offsets = _indices(3, width, images.device)  # 9: one pixel about
    errors = []
    for offset in offsets:
        index = corner[..., None] + offset + window  # B N P SS
        error = shown.gather(1, index.flatten(1)).view(index.shape) - surroundings
        errors.append(error.square().sum(3))
    best_offset = offsets[torch.stack(errors, 3).argmin(3)]  # B N P
    corner = corner + best_offset + MARGIN * (width + 1)  # of the patch itself
    index = (corner[..., None] + _indices(patch, width, images.device)).flatten(1)  # B NPpp
    index = index[:, None].expand(-1, images.shape[1], -1)
    patches = padded.flatten(2).gather(2, index)  # B C NPpp
    patches = patches.unflatten(2, (*grid, PEAKS, patch, patch)).permute(0, 4, 1, 2, 5, 3, 6)
    copies = patches.flatten(5, 6).flatten(3, 4)
    return copies, best.transpose(1, 2).unflatten(2, grid)


def _indices(side: int, width: int, device: torch.device) -> torch.Tensor:
    """Of the pixels of a square in a flattened image of this width."""
    one = torch.arange(side, device=device)
    return (one[:, None] * width + one).flatten()
