"""Pictures a second from shards to uint8 batches: ours, WebDataset's, and PyTorch's own loader.

    python -m benchmarks.loaders [--images 40000] [--batch 64] [--epochs 3]

The same made pictures (64x128 RGB) lie in our shards, in tar files with their raw bytes, and in
tar files as PNG, as WebDataset's documentation has it; all within the page cache. Everybody
shuffles: ours all pictures, WebDataset its shards and a buffer of 1,000, as is usual with it. Rates
are those of the best epoch, in one process, and with two workers: threads of ours, processes of
theirs. A ratio is ours over the better of WebDataset's two with as many workers; `best` sets the
best of all of ours against the best of all of theirs, not augmented. The augmentation is the same
code on both sides. Memory is the peak of the process' own (RssAnon, not the mapped files): what a
first epoch adds, and what a second adds to that.
"""

import argparse
import io
import itertools
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.lines import line, show
from pipeline.errors import run_main
from pipeline.records import write_json
from pipeline.shards.augmentation import augment
from pipeline.shards.batching import ImageLoader
from pipeline.shards.checking import INDEX
from pipeline.shards.loaders import ImageSet
from pipeline.shards.writing import ShardWriter, image_schema

HEIGHT, WIDTH = 64, 128
A_SHARD = 8000  # pictures; 197 MB
BUFFER = 1000


def picture(number: int) -> np.ndarray:
    """uint8 `H W 3`: flat areas with edges, so that PNG has something to compress."""
    random = np.random.default_rng(number)
    image = np.full((HEIGHT, WIDTH, 3), random.integers(0, 256, 3), np.uint8)
    for _ in range(12):
        centre = [int(x) for x in random.integers(0, WIDTH, 2)]
        colour = [int(x) for x in random.integers(0, 256, 3)]
        cv2.circle(image, centre, int(random.integers(4, 24)), colour, -1, cv2.LINE_AA)
    return image


def write_ours(folder: Path, pictures: list[np.ndarray]) -> None:
    records = []
    for number, first in enumerate(range(0, len(pictures), A_SHARD)):
        path = folder / f"images-train-{number:05d}.arrow"
        with ShardWriter(path, image_schema(HEIGHT, WIDTH)) as writer:
            for frame, image in enumerate(pictures[first : first + A_SHARD]):
                writer.add({"video_id": "made", "frame": frame, "image": image.tobytes()})
            records.append(writer.close())
    write_json(folder / INDEX, {"height": HEIGHT, "width": WIDTH, "shards": records})


def write_tars(folder: Path, pictures: list[np.ndarray], how: str) -> list[str]:
    """Tar files of `how`: raw bytes or png; their names."""
    names = []
    for number, first in enumerate(range(0, len(pictures), A_SHARD // 2)):
        names.append(str(folder / f"{how}-{number:05d}.tar"))
        with tarfile.open(names[-1], "w") as tar:
            for frame, image in enumerate(pictures[first : first + A_SHARD // 2]):
                data = image.tobytes() if how == "raw" else cv2.imencode(".png", image)[1].tobytes()
                entry = tarfile.TarInfo(f"{first + frame:08d}.{how}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return names


def decode(data: bytes, how: str) -> np.ndarray:
    if how == "raw":
        return np.frombuffer(data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def webdataset(names: list[str], how: str, batch: int, workers: int, augmented: bool) -> Iterable:
    import webdataset as wds

    def stacked(samples: list[np.ndarray]) -> torch.Tensor:
        images = np.stack(samples)
        return torch.from_numpy(augment(images, range(len(images)), 0, 0) if augmented else images)

    pipeline = wds.WebDataset(names, shardshuffle=len(names), empty_check=False)
    pipeline = pipeline.shuffle(BUFFER).map(lambda sample: decode(sample[how], how))
    pipeline = pipeline.batched(batch, collation_fn=stacked)
    return wds.WebLoader(pipeline, batch_size=None, num_workers=workers)


class Rows(torch.utils.data.Dataset):
    """Our shards one picture at a time, as PyTorch's loader wants them."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.images.batch([row])[0]


def rate(epoch: Callable[[], Iterable], epochs: int) -> float:
    """Pictures a second of the best epoch: other work on the machine only ever slows one."""
    return max(_rate(epoch) for _ in range(epochs))


def _rate(epoch: Callable[[], Iterable]) -> float:
    started = time.perf_counter()
    return sum(len(images) for images in epoch()) / (time.perf_counter() - started)


def own_memory() -> float:
    """MB of the process that are not mapped files."""
    status = Path("/proc/self/status").read_text()
    kilobytes = next(row.split()[1] for row in status.splitlines() if row.startswith("RssAnon"))
    return int(kilobytes) / 1024


def peak_memory(epoch: Callable[[], Iterable]) -> float:
    """MB, looked at after every batch of an epoch."""
    return max(own_memory() for _ in epoch())


class Sides:
    """The same pictures in everybody's files; each method gives what makes an epoch."""

    def __init__(self, count: int, batch: int, folder: Path) -> None:
        pictures = [picture(number) for number in range(count)]
        write_ours(folder, pictures)
        self.tars = {how: write_tars(folder, pictures, how) for how in ("raw", "png")}
        self.images, self.batch = ImageSet(folder, "train"), batch

    def ours(self, workers: int, augmented: bool = False) -> Callable[[], Iterable]:
        loader = ImageLoader(self.images, self.batch, seed=0, augmented=augmented, workers=workers)
        return lambda: (found.images for found in itertools.islice(loader, len(loader)))

    def theirs(self, how: str, workers: int, augmented: bool = False) -> Callable[[], Iterable]:
        loader = webdataset(self.tars[how], how, self.batch, workers, augmented)
        return lambda: loader

    def torchs(self) -> Callable[[], Iterable]:
        loader = torch.utils.data.DataLoader(Rows(self.images), self.batch, shuffle=True)
        return lambda: loader


def compare(count: int, batch: int, epochs: int, folder: Path) -> list[dict]:
    sides, lines, found = Sides(count, batch, folder), [], []
    for augmented, workers in itertools.product((False, True), (0, 2)):
        which = f"loaders/{'augmented' if augmented else 'plain'}/{workers}_workers"
        ours = rate(sides.ours(workers, augmented), epochs)
        theirs = {how: rate(sides.theirs(how, workers, augmented), epochs) for how in sides.tars}
        best = max(theirs.values())
        lines.append(line(which, ours, "images/s", ours / best, "webdataset"))
        lines += [line(f"{which}/webdataset_{k}", v, "images/s") for k, v in theirs.items()]
        found += [] if augmented else [(ours, best)]
    ours, theirs = map(max, zip(*found, strict=True))
    lines.append(line("loaders/best", ours, "images/s", ours / theirs, "webdataset"))
    lines.append(line("loaders/torch_dataloader", rate(sides.torchs(), epochs), "images/s"))
    return lines + memory(sides.ours(2, augmented=True))


def memory(epoch: Callable[[], Iterable]) -> list[dict]:
    before = own_memory()
    first, second = peak_memory(epoch), peak_memory(epoch)
    return [
        line("loaders/memory/first_epoch", first - before, "MB"),
        line("loaders/memory/second_epoch", second - max(first, before), "MB"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loaders", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        lines = compare(given.images, given.batch, given.epochs, Path(folder))
    show(lines, f"{given.images} pictures of {HEIGHT}x{WIDTH}, batches of {given.batch}")


if __name__ == "__main__":
    run_main(main)
