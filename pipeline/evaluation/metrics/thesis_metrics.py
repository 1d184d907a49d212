"""The `seed` ruler: the arithmetic behind the numbers of the GANime thesis (its Tables 7-10).

For reading our numbers beside theirs, like for like, and for nothing else: why it misleads stands
in docs/results/thesis_tables.md. Clips uint8 `n H W 3` in, numbers out. The source is the thesis'
evaluation code (github.com/Kurokabe/GANime, ganime/metrics) and what its metrics notebooks feed it.

The cast. A value x in [-1, 1] becomes (x/2 + 1)*255, which lies in [127.5, 382.5], and then uint8:
the fraction is cut off, and of what is left only the low eight bits stay. So pixel p, that is
x = p/127.5 - 1, becomes (p + 127) mod 256. A float between two pixels takes the nearer one first,
because cutting off after adding 127.5 rounds. TensorFlow 2.7, the version of the thesis'
Dockerfile, does this on a CPU, as does 2.12 (both tried); 2.21 stops at 255 in long arrays, so a
rerun today gives other numbers. Its GPU, where the notebooks ran, could not be tried.

What is reproduced: that cast; PSNR and SSIM as tf.image has them, in float32; frames 1..n-1, the
given last one among them; batches of 8 from a reshuffled order, a rest of fewer than 8 left out;
each batch cut to its shortest clip, the inner frames that stay chosen by chance (so no padded frame
is ever measured); the mean of a video, then of all videos; the repetitions, with mean and
deviation; FVD and KVD of the clips against their own truth, those of fewer than 9 frames with grey
ones in front.

What is not: the order of TensorFlow's sums (the last digits of float32). Splits that were redrawn
at each pass: ours are fixed, and a repetition draws other batches of the same clips. The cut comes
after the drawing, where theirs came before: ours draws whole clips. The FID is absent: it looks
through the ImageNet InceptionV3 of Keras, whose weights are not at hand.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.evaluation.metrics.image import check_pair

BATCH = 8
I3D_FRAMES = 9  # shorter clips are filled up
GREY = 128  # theirs was 0 in [-1, 1], which lies between 127 and 128
WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2  # of a range of 1: uint8 becomes [0, 1] first


def wrap(images: torch.Tensor) -> torch.Tensor:
    """What the thesis' cast makes of pictures of any shape: uint8, or float in [-1, 1], to uint8.

    Floats outside (its decoder ends in tanh and gives none) wrap as well, towards zero.
    """
    if images.dtype == torch.uint8:
        images = images.float() / 127.5 - 1
    if not images.is_floating_point():
        raise ValueError(f"expected uint8 or float pictures, got {images.dtype}")
    scaled = (images.float() * 0.5 + 1) * 255
    return (scaled.to(torch.int32) & 255).byte()


def seed_psnr(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """PSNR in dB of each picture, both uint8 `B H W 3` and not yet wrapped: `B`.

    Infinite for equal pictures, as theirs.
    """
    a, b = _wrapped(images, truth)
    error = (a - b).square().flatten(1).mean(1)
    return -np.float32(10 / math.log(10)) * error.log()


def seed_ssim(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """SSIM of each picture, both uint8 `B H W 3` of at least 11 pixels, not yet wrapped: `B`."""
    a, b = _wrapped(images, truth)
    if min(a.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {WINDOW} pixels, got {images.shape}")
    mean_a, mean_b = _blur(a), _blur(b)
    product, squares = mean_a * mean_b * 2, mean_a.square() + mean_b.square()
    luminance = (product + C1) / (squares + C1)
    contrast = (_blur(a * b) * 2 - product + C2) / (_blur(a.square() + b.square()) - squares + C2)
    return (luminance * contrast).mean((-2, -1)).mean(-1)


def _wrapped(images: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as float `B 3 H W` in [0, 1]."""
    check_pair(images, truth)
    a, b = (wrap(x).movedim(-1, 1).float() * np.float32(1 / 255) for x in (images, truth))
    return a, b


def _blur(x: torch.Tensor) -> torch.Tensor:
    """`B 3 H W` to `B 3 H-10 W-10`, by the whole window at once.

    One axis after the other is, in flat pictures, ten times as far from TensorFlow. All pictures as
    the channels of one take a quarter of the time.
    """
    at = torch.arange(WINDOW, dtype=torch.float32, device=x.device) - WINDOW // 2
    falls = at.square() * (-0.5 / SIGMA**2)
    window = torch.softmax((falls[:, None] + falls).flatten(), 0).view(1, 1, WINDOW, WINDOW)
    planes = x.flatten(0, 1)[None]  # 1 3B H W
    count = planes.shape[1]
    blurred = F.conv2d(planes, window.expand(count, 1, WINDOW, WINDOW), groups=count)
    return blurred.view(*x.shape[:2], *blurred.shape[-2:])


def seed_batches(n_clips: int, repetition: int, seed: int, size: int = BATCH) -> list[list[int]]:
    """Numbers of the clips of each batch of one repetition: full batches, other ones each time.

    Fewer clips than a batch holds make none.
    """
    order = np.random.default_rng((seed, repetition)).permutation(n_clips)
    return [order[i : i + size].tolist() for i in range(0, n_clips - size + 1, size)]


def seed_frames(lengths: Sequence[int], random: np.random.Generator) -> list[list[int]]:
    """Frames of each clip of a batch that stay when all are cut to the shortest.

    First and last always, of the inner ones as many by chance as the shortest has, in order. Clips
    of one length stay whole.
    """
    inner = min(lengths) - 2
    assert inner >= 1, lengths
    chosen = [np.sort(random.permutation(np.arange(1, n - 1))[:inner]).tolist() for n in lengths]
    return [[0, *frames, n - 1] for frames, n in zip(chosen, lengths, strict=True)]


def seed_scores(images: torch.Tensor, truth: torch.Tensor) -> dict[str, torch.Tensor]:
    """PSNR and SSIM of each picture, both uint8 `B H W 3`: `B` each."""
    return {"psnr": seed_psnr(images, truth), "ssim": seed_ssim(images, truth)}


def seed_clip(clip: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """PSNR and SSIM of one clip against its truth, both uint8 `n H W 3`: means of frames 1..n-1.

    The last frame counts, so it should be a drawn one, as theirs was: where it is the given picture
    itself, PSNR is infinite.
    """
    return {name: float(found.mean()) for name, found in seed_scores(clip[1:], truth[1:]).items()}


def seed_video(clip: torch.Tensor) -> torch.Tensor:
    """What I3D is shown of uint8 `n H W 3`: frames 1..n-1, after grey ones if fewer than 9."""
    shown = clip[1:]
    missing = max(0, I3D_FRAMES - len(shown))
    return torch.cat([torch.full_like(shown[:1], GREY).expand(missing, -1, -1, -1), shown])


def seed_summary(
    per_repetition: Sequence[dict[str, float]],
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Mean and deviation of each measure over the repetitions; and what was left out, with why.

    The deviation is the standard deviation over the repetitions (over their number less 1), and 0
    for a single one. A measure with a value that is no finite number is left out.
    """
    numbers: dict[str, dict[str, float]] = {}
    reasons: dict[str, str] = {}
    for name in dict.fromkeys(key for values in per_repetition for key in values):
        found = np.array([values[name] for values in per_repetition if name in values], float)
        wrong = int((~np.isfinite(found)).sum())
        if wrong:
            reasons[name] = (
                f"infinite or no number in {wrong} of {len(found)} repetitions: by this ruler a "
                "frame that equals the true one is infinitely good, and its mean with it"
            )
            continue
        deviation = float(found.std(ddof=1)) if len(found) > 1 else 0.0
        numbers[name] = {"mean": float(found.mean()), "deviation": deviation}
    return numbers, reasons
