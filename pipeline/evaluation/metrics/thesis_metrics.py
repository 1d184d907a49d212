"""The thesis' metrics: the arithmetic behind the numbers of the GANime thesis (its Tables 7-10).

For reading our numbers beside theirs, like for like, and for nothing else: why it misleads stands
in docs/results/thesis_tables.md. Clips uint8 `n H W 3` in, numbers out. The source is the thesis'
evaluation code (github.com/Kurokabe/GANime, ganime/metrics) and what its metrics notebooks feed it.

The cast. A value x in [-1, 1] becomes (x/2 + 1)*255, which lies in [127.5, 382.5], and then uint8:
the fraction is cut off, and of what is left only the low eight bits stay. So pixel p, that is
x = p/127.5 - 1, becomes (p + 127) mod 256. A float between two pixels takes the nearer one first,
because cutting off after adding 127.5 rounds. TensorFlow 2.7, the version of the thesis'
Dockerfile, does this on a CPU, as does 2.12 (both tried); 2.21 stops at 255 in long arrays, so a
rerun today gives other numbers. Its GPU, where the notebooks ran, could not be tried.

What is reproduced: that cast; PSNR (without a cap) and SSIM of tf.image; frames 1..n-1, the
given last one among them; batches of 8 from a reshuffled order, a rest of fewer than 8 left out;
each batch truncated to its shortest clip, the inner frames that stay chosen at random (so no padded
frame is ever measured); the mean of a video, then of all videos; the repetitions, with mean and
deviation; FVD and KVD of the clips against their own truth, those of fewer than 9 frames with grey
ones in front.

What is not: TensorFlow's rounding. Splits that were redrawn at each pass: ours are fixed, and a
repetition draws other batches of the same clips. Truncation comes after generation, where theirs
came before: ours generates whole clips. The FID is absent: it looks through the ImageNet
InceptionV3 of Keras, whose weights are not at hand.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from pipeline.evaluation.metrics.image import check_pair, ssim

BATCH_SIZE = 8
I3D_FRAMES = 9  # shorter clips are filled up
GREY = 128  # theirs was 0 in [-1, 1], which lies between 127 and 128


def wrap(images: torch.Tensor) -> torch.Tensor:
    """What the thesis' cast makes of images of any shape: uint8, or float in [-1, 1], to uint8.

    Floats outside (its decoder ends in tanh and gives none) wrap as well, towards zero.
    """
    if images.dtype == torch.uint8:
        images = images.float() / 127.5 - 1
    assert images.is_floating_point(), images.dtype
    scaled = (images.float() * 0.5 + 1) * 255
    return (scaled.to(torch.int32) & 255).byte()


def thesis_psnr(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """PSNR in dB of each image, both uint8 `B H W 3` and not yet wrapped: `B`.

    Infinite for equal images, as theirs.
    """
    check_pair(images, truth)
    error = (wrap(images).float() - wrap(truth).float()).mul(1 / 255).square().flatten(1).mean(1)
    return -np.float32(10 / math.log(10)) * error.log()


def thesis_ssim(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """SSIM of each image, both uint8 `B H W 3` of at least 11 pixels, not yet wrapped: `B`."""
    check_pair(images, truth)
    return ssim(wrap(images), wrap(truth))


def thesis_scores(images: torch.Tensor, truth: torch.Tensor) -> dict[str, torch.Tensor]:
    """PSNR and SSIM of each image, both uint8 `B H W 3`: `B` each."""
    return {"psnr": thesis_psnr(images, truth), "ssim": thesis_ssim(images, truth)}


def thesis_batches(n_clips: int, repetition: int, seed: int) -> list[list[int]]:
    """Rows of the clips of each batch of one repetition: full batches, other ones each time.

    Fewer clips than a batch holds make none.
    """
    order = np.random.default_rng((seed, repetition)).permutation(n_clips)
    starts = range(0, n_clips - BATCH_SIZE + 1, BATCH_SIZE)
    return [order[i : i + BATCH_SIZE].tolist() for i in starts]


def truncated_frames(lengths: Sequence[int], rng: np.random.Generator) -> list[list[int]]:
    """Frames of each clip of a batch that stay when all are truncated to the shortest.

    First and last always, of the inner ones as many at random as the shortest has, in order. Clips
    of one length stay whole.
    """
    inner = min(lengths) - 2
    assert inner >= 1, lengths
    chosen = [np.sort(rng.permutation(np.arange(1, n - 1))[:inner]).tolist() for n in lengths]
    return [[0, *frames, n - 1] for frames, n in zip(chosen, lengths, strict=True)]


def thesis_video_input(clip: torch.Tensor) -> torch.Tensor:
    """What I3D sees of uint8 `n H W 3`: frames 1..n-1, after grey ones if fewer than 9."""
    frames = clip[1:]
    missing = max(0, I3D_FRAMES - len(frames))
    return torch.cat([torch.full_like(frames[:1], GREY).expand(missing, -1, -1, -1), frames])


def summarize_repetitions(
    repetitions: Sequence[dict[str, float]],
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Mean and deviation of each metric over the repetitions; and what was left out, with why.

    The deviation is the standard deviation over the repetitions (over their number less 1), and 0
    for a single one. A metric with a value that is no finite number is left out.
    """
    numbers: dict[str, dict[str, float]] = {}
    reasons: dict[str, str] = {}
    for name in dict.fromkeys(key for values in repetitions for key in values):
        values = np.array([row[name] for row in repetitions if name in row], float)
        infinite = int((~np.isfinite(values)).sum())
        if infinite:
            reasons[name] = (
                f"infinite or no number in {infinite} of {len(values)} repetitions: by this "
                "arithmetic a frame that equals the true one is infinitely good, and so is the mean"
            )
            continue
        deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        numbers[name] = {"mean": float(values.mean()), "deviation": deviation}
    return numbers, reasons
