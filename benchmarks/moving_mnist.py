"""How well a model has learnt Moving MNIST, from its first and last frames alone.

    python -m benchmarks.moving_mnist [--clips 100] [--samples 8] [--video-clips 100] [--out FOLDER]

Run it in the working copy of a run with `presets/moving_mnist.yaml`: it reads models/ and the test
clips of data/shards, whose digits no network has seen. Scored are inner frames.

- `tokenizer`: true tokens, decoded from the true previous frame; `rolled`: from the decoded
  neighbour, from both ends.
- `next frame`: predicted from the two true frames before (and the last one), beside holding them.
- `both ends`: greedy; one sample; the mean and the median of all samples; the best of them by how
  well its halves, one drawn from each end, meet in the middle; the best by the truth, a bound.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.lines import line, show
from pipeline import frames, progress
from pipeline.config import Decoding
from pipeline.data.datasets import ClipSet
from pipeline.evaluation import baselines
from pipeline.evaluation.metrics.distances import frechet, polynomial_mmd
from pipeline.evaluation.metrics.extractors import VideoFeatures
from pipeline.evaluation.metrics.image import psnr, ssim
from pipeline.evaluation.report.figures import line_chart, stack, strip
from pipeline.inference.inbetweener import InBetweener
from pipeline.io import write_png
from pipeline.models.gpt.model import Conditioning
from pipeline.models.gpt.sampling import GREEDY, predict

BASELINES = {
    "black": baselines.black,
    "hold first": baselines.hold_first,
    "cross-fade": baselines.cross_fade,
}


@torch.no_grad()
def one_frame_ahead(model: InBetweener, clip: torch.Tensor) -> dict[str, torch.Tensor]:
    """The inner frames of a clip uint8 `n H W 3`, each made from true frames before it."""
    tokenizer, n = model.tokenizer, len(clip)
    images = frames.to_float(clip)
    # the two frames before, the frame, and the last one; frame 1 has one before
    windows = torch.stack([images[[t - 1, t, t + 1, n - 1]] for t in range(1, n - 2)])
    lengths = torch.arange(n, 3, -1)
    ids, features = tokenizer.encode_sequence(windows, lengths)  # B 4 N
    cond = Conditioning(ids[:, -1], lengths, features)
    predicted = predict(model.gpt, ids[:, :2], cond)  # of the frames 2..n-2
    true = tokenizer.encode(images[1:-1], images[:-2])
    ends = images[[0, -1]].expand(n - 2, -1, -1, -1, -1)
    return {
        "tokenizer": frames.to_uint8(tokenizer.decode(true, images[:-2], ends)),
        "next frame": frames.to_uint8(tokenizer.decode(predicted, images[1:-2], ends[1:])),
        "hold the previous": clip[1:-2],
    }


def from_both_ends(
    model: InBetweener, clip: torch.Tensor, decoding: Decoding, samples: int, seed: int
) -> dict[str, torch.Tensor]:
    """Inner frames uint8 `n-2 H W 3` by each way of choosing among samples."""
    generator = torch.Generator().manual_seed(seed)
    first, last = clip[:1].repeat(samples, 1, 1, 1), clip[-1:].repeat(samples, 1, 1, 1)
    lengths = [len(clip)] * samples
    ids = model.token_ids(first, last, lengths, decoding, generator)  # T B N
    clips = [
        torch.cat(list(model.draw(clip[0], clip[-1], len(clip), ids[:, k]))) for k in range(samples)
    ]
    missed = [model.miss(clip[0], clip[-1], ids[:, k]) for k in range(samples)]
    close = [float(psnr(one, clip[1:-1]).mean()) for one in clips]
    stacked = torch.stack(clips).float()  # K n-2 H W 3
    return {
        "one sample": clips[0],
        "mean of samples": stacked.mean(0).round().to(torch.uint8),
        "median of samples": torch.from_numpy(np.median(stacked, 0).round().astype(np.uint8)),
        "best by its seam": clips[int(np.argmin(missed))],
        "best by the truth": clips[int(np.argmax(close))],
    }


def draw_learning(out: Path) -> None:
    """The transformer's tokens by epoch, on val sequences."""
    table = pd.read_csv("models/gpt2/validation.csv").set_index("epoch")[["accuracy"]]
    label = "transformer: share of tokens exactly right"
    (out / "moving_mnist_gpt2.svg").write_text(line_chart(table, label))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--video-clips", type=int, default=100, help="for FVD and KVD; 0: none")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    device = torch.device("cpu")
    model = InBetweener.load(Path("models/vqgan"), Path("models/gpt2"), device, "float32")
    clips = ClipSet(Path("data/shards"), "test")
    count = min(arguments.clips, len(clips))
    decoding = GREEDY.model_copy(update={"temperature": arguments.temperature})
    network = VideoFeatures(device) if arguments.video_clips else None
    scores: dict[str, list[tuple[float, float]]] = {}
    features: dict[str, list[np.ndarray]] = {}
    strips = []
    with progress.bar(what="Moving MNIST", unit="clip", total=count) as bar:
        for number in range(count):
            clip = clips[number].frames
            made = one_frame_ahead(model, clip)
            made["rolled"] = model.round_trip(clip)[0]
            first, last, n = clip[:1], clip[-1:], [len(clip)]
            made["greedy"] = model.generate(first, last, n)[0][1:-1]
            made |= from_both_ends(model, clip, decoding, arguments.samples, number)
            made |= {name: method(clip) for name, method in BASELINES.items()}
            for name, inner in made.items():
                truth = clip[-1 - len(inner) : -1]
                pair = float(psnr(inner, truth).mean()), float(ssim(inner, truth).mean())
                scores.setdefault(name, []).append(pair)
            if network is not None and number < arguments.video_clips:
                for name in ("one sample", "best by its seam", "greedy", *BASELINES):
                    whole = torch.cat([first, made[name], last])
                    features.setdefault(name, []).append(network(whole))
                features.setdefault("truth", []).append(network(clip))
            strips.append((scores["best by its seam"][-1][0], clip, made))
            bar.update()
    lines = []
    for name, pairs in scores.items():
        values = np.array(pairs)
        lines.append(line(f"moving_mnist/{name}: PSNR", values[:, 0].mean(), "dB"))
        lines.append(line(f"moving_mnist/{name}: SSIM", values[:, 1].mean(), ""))
    for name in [name for name in features if name != "truth"]:
        a, b = np.stack(features[name]), np.stack(features["truth"])
        lines.append(line(f"moving_mnist/{name}: FVD", frechet(a, b), ""))
        lines.append(line(f"moving_mnist/{name}: KVD", polynomial_mmd(a, b), ""))
    show(lines, f"Moving MNIST, {count} test sequences")
    draw_learning(arguments.out)
    strips.sort(key=lambda row: -row[0])
    images = []
    for _, clip, made in (strips[0], strips[len(strips) // 2], strips[-1]):
        rows = {"truth": clip}
        for name in ("best by its seam", "mean of samples"):
            rows[name] = torch.cat([clip[:1], made[name], clip[-1:]])
        images.append(strip(rows))
    write_png(stack(images), arguments.out / "moving_mnist.png")


if __name__ == "__main__":
    main()
