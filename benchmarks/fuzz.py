"""Files from strangers: real files, mutated, through the readers that the commands use.

    python -m benchmarks.fuzz --minutes 60 --seed 1 --out /tmp/fuzz

Each kind of file in turn gets as much time. What a reader says in a sentence is a refusal; all else
is a fault: another exception, a signal, more than SECONDS, more than MEMORY. Its input and the last
line of its traceback are kept in --out. Input n of a kind depends on the seed and n alone.
"""

import argparse
import collections
import copy
import gzip
import itertools
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from ruamel.yaml import YAML

from pipeline import config, io
from pipeline.commands import presets
from pipeline.data import frame_file, moving_mnist, shard_writer
from pipeline.data.datasets import ClipSet, ImageSet
from pipeline.data.detector_features import FrameTerms
from pipeline.errors import UserError
from pipeline.inference import hub
from pipeline.models import checkpoints
from pipeline.models.gpt.checkpoint import save_gpt
from pipeline.models.gpt.model import FrameGpt, GptConfig
from pipeline.models.vqgan.keyframes import KeyframeTokenizer
from pipeline.resume import Resume
from pipeline.video import decode, transparency
from pipeline.video.ffmpeg_input import executable
from pipeline.video.folder import Unreadable
from pipeline.video.probe import Reading, probe

SECONDS, MEMORY, SLICE = 60, 4 * 2**30, 20  # of an input; bytes of address space; seconds a turn
REFUSALS = (UserError, Unreadable, decode.Truncated)
TABLES = {"videos": io.VIDEOS, "scenes": io.SCENES, "frame_index": io.FRAME_INDEX}
TABLES |= {"clips": io.CLIPS, "tokens": io.TOKENS}
PICTURES = {"a.png": {}, "b.png": {}, "c.png": {}, "a.jpg": {}, "b.jpg": {"progressive": True}}
PICTURES |= {"a.webp": {}, "b.webp": {"lossless": True}, "a.tif": {"compression": "tiff_lzw"}}
PICTURES |= {"a.bmp": {}, "a.gif": {"save_all": True}, "a.avif": {}, "a.tga": {"compression": 1}}
PICTURES |= {"c.webp": {"save_all": True}, "b.tif": {}}
FILMS = {"a.mp4": "-c:v libx264 -bf 2 -c:a aac", "b.mp4": "-c:v mpeg4", "a.mkv": "-c:v libx264"}
FILMS |= {"a.webm": "-c:v libvpx-vp9", "a.avi": "-c:v mpeg4", "a.mov": "-c:v prores", "a.gif": ""}
FILMS |= {"a.ts": "-c:v mpeg2video", "a.flv": "-c:v flv1", "b.mkv": "-c:v ffv1", "a.ogv": ""}
FILMS |= {"b.mov": "-c:v qtrle", "c.mp4": "-c:v libx265", "b.webm": "-c:v libaom-av1 -cpu-used 8"}
ODD = [None, True, -1, 0, 1.5, 2**31, 2**70, 10**400, 1e999, float("nan"), "", "\ud800", "a" * 9999]
ODD += ["../../etc/passwd", "\x1b[31m", [], {}, [[]] * 1000, {"": None}, [0] * 4, "1", 8192, 10**6]
ODD_YAML = ["&a [*a]", "!!python/object/apply:os.system [ls]", "*b", "{<<: {a: 1}}", ".inf", "0x9"]
ODD_YAML += ["[" * 5000, "1e-400", "? a", "2020-01-01", "!!binary aaa", "0o7", "'", "-" * 999, "~"]


def make_seeds(out: Path) -> None:
    """A folder of whole files for each kind."""
    rng = np.random.default_rng(0)
    for kind in KINDS:
        (out / kind).mkdir(parents=True, exist_ok=True)
    pixels = np.kron(rng.integers(0, 256, (6, 8, 4)), np.ones((8, 8, 1))).astype(np.uint8)
    for name, options in PICTURES.items():
        mode = {"b.png": "RGBA", "c.png": "P", "b.tif": "CMYK", "a.tga": "RGBA"}.get(name, "RGB")
        picture = Image.fromarray(pixels).convert(mode)
        if "save_all" in options:
            options = options | {"append_images": [picture.rotate(90), picture.rotate(180)]}
        picture.save(out / "picture" / name, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0", **options)
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(out / "picture" / "d.png")
    for name, words in FILMS.items():
        given = "-f lavfi -i testsrc=s=64x48:r=12:d=1 -f lavfi -i sine=d=1 -shortest"
        command = f"{executable()} -y -v error {given} {words} -threads 1 {out / 'film' / name}"
        subprocess.run(command.split(), check=True)
    images = rng.integers(0, 256, (40, 16, 32, 3), dtype=np.uint8)
    for packed in ("none", "lz4", "zstd"):
        path = out / "frames" / f"{packed}.arrow"
        with frame_file.write_frames(path, 16, 32, compression=packed) as file:
            for k in range(0, 40, 8):
                some = images[k : k + 8]
                file.append(some, FrameTerms().measure(some, some, np.arange(8) / 12))
    for kind, schema in TABLES.items():
        table = pa.table([_column(field.type) for field in schema], schema=schema)
        io.write_table(table.to_pandas(), schema, out / "table" / f"{kind}.parquet")
    for kind, make in (("images", shard_writer.image_schema), ("clips", shard_writer.clip_schema)):
        with shard_writer.open_shard(out / "shard" / f"{kind}-train-0.arrow", make(16, 32)) as add:
            for k in range(9):
                row = {"video_id": "v", "frame": k, "image": images[k].tobytes()}
                add(row | {"clip_id": "c", "n_frames": 5, "images": images[:5].tobytes()})
    torch.manual_seed(0)
    content = presets.merged(config.read_yaml(), config.read_yaml(Path("presets/tiny.yaml")))
    content["flow"]["method"], content["base"]["threads"] = "dis", 1
    settings = config.parse(content)
    size = settings.ingest.height, settings.ingest.width
    tokenizer = KeyframeTokenizer(settings.vqgan, *size, "dis")
    gpt = FrameGpt(GptConfig.from_params(settings, tokenizer.grid, tokenizer.context_channels))
    checkpoints.save_tokenizer(tokenizer, settings, out / "model" / "vqgan")
    save_gpt(gpt, checkpoints.load_tokenizer(out / "model/vqgan", CPU).sha256, out / "model/gpt2")
    state = {"step": 3, "module": gpt.state_dict(), "rng": torch.get_rng_state(), "names": ["a"]}
    torch.save(state | {"losses": [0.5, float("nan")]}, out / "checkpoint" / "a.pt")
    for path in [*Path("metrics").glob("*.json"), *out.glob("model/*/config.json")]:
        (out / "json" / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    for path in [Path("params.yaml"), Path("dvc.lock"), *Path("presets").glob("*.yaml")]:
        (out / "yaml" / path.name).write_bytes(path.read_bytes())
    digits = struct.pack(">4I", moving_mnist.MAGIC, 5, 28, 28) + bytes(images.flat[: 5 * 28 * 28])
    (out / "idx" / "digits").write_bytes(digits)
    (out / "idx" / "digits.gz").write_bytes(gzip.compress(digits))
    np.save(out / "idx" / "stored.npy", images[..., 0].reshape(20, 2, 16, 32))


def _column(kind: pa.DataType) -> pa.Array:
    values = {pa.string(): "video-1", pa.bool_(): True, pa.large_binary(): bytes(40)}
    values |= {pa.list_(pa.int32()): [1, 2, 3], pa.list_(pa.uint16()): [7] * 64}
    return pa.array([values.get(kind, k) for k in range(9)], kind)


# Readers: the file `path`, in a folder that the child may fill.


def read_film(path: Path) -> None:
    header = probe(path, Reading(deinterlace=len(path.name) % 2 == 0, crop_letterbox=True))
    for _ in decode.decode(path, header, (16, 32), (9, 16), []):
        pass


def read_frames(path: Path) -> None:
    frames = frame_file.FrameFile(path)
    for number in {0, len(frames) // 2, len(frames) - 1} if len(frames) else ():
        frames[number].sum()
    for name in frame_file.TERMS:
        frames.term(name).sum()
    frames.small.sum()


def read_any_table(path: Path) -> None:
    rows = io.read_table(path, TABLES[path.stem])
    rows.to_csv(os.devnull)


def read_shard(path: Path) -> None:
    if path.name.startswith("images"):
        pictures = ImageSet(path.parent, "train")
        return pictures.batch(range(min(2, len(pictures))))
    clips = ClipSet(path.parent, "train")
    return [clips[row] for row in range(min(3, len(clips)))]


def read_model(path: Path) -> None:
    hub.from_pretrained(path)


def read_checkpoint(path: Path) -> None:
    state = Resume.__new__(Resume)
    state.path, state.previous_path = path, path.with_suffix(".previous.pt")
    if state.load() is None:
        raise UserError("set aside, with a sentence")


def read_json(path: Path) -> None:
    io.flatten(io.read_json(path))


def read_yaml(path: Path) -> None:
    content = config.read_yaml(path)
    io.flatten(content)
    if path.stem != "dvc":
        presets.merge(path.stem, Path(path.parents[1], "params.yaml"), path.parent)
        presets.flags(path.stem, path.parent)


def read_digits(path: Path) -> None:
    if path.suffix == ".npy":
        moving_mnist._read_stored(path).sum()
    else:
        moving_mnist.read_idx(path)


CPU = torch.device("cpu")
KINDS = {"picture": transparency.read, "film": read_film, "frames": read_frames}
KINDS |= {"table": read_any_table, "shard": read_shard, "model": read_model}
KINDS |= {"checkpoint": read_checkpoint, "json": read_json, "yaml": read_yaml, "idx": read_digits}


# Mutations.


def mutated(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """One to four changes of bytes; half of them in the first 256."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        most = len(data) if rng.random() < 0.5 else min(len(data), 256)
        at, length = rng.randrange(max(1, most)), int(2 ** rng.uniform(0, 12))
        match rng.choice("bbbnnntdrxis"):
            case "b":  # bits
                for k in range(at, min(len(data), at + rng.choice((1, 1, 8)))):
                    data[k] ^= 1 << rng.randrange(8)
            case "n":  # a number, as of a length or a size
                size = rng.choice((1, 2, 4, 8))
                number = rng.choice((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2**16 % 256))
                number = (number - rng.randrange(3)) % 2 ** (8 * size)
                data[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
            case "t":
                del data[rng.randrange(len(data) + 1) :]
            case "d":
                del data[at : at + length]
            case "r":  # a piece many times
                data[at:at] = data[at : at + length] * rng.choice((1, 2, 50))
            case "x":
                data[at : at + length] = rng.randbytes(length)
            case "i":
                data[at:at] = rng.randbytes(length)
            case "s":  # spliced with another of its kind
                data[at:] = other[rng.randrange(len(other) + 1) :]
    return bytes(data)


def mutated_tree(content: object, rng: random.Random) -> str:
    """JSON with one node replaced, removed, named anew or twice, or nested deep."""
    content = copy.deepcopy(content)
    places, waiting = [], [content]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        places += [(node, key) for key in keys]
        waiting += [node[key] for key in keys if isinstance(node[key], dict | list)]
    node, key = rng.choice(places or [([0], 0)])
    way = rng.random()
    if way < 0.7:
        value = rng.choice(ODD)
        node[key] = [value] if way < 0.1 else value
    elif way < 0.8:
        del node[key]
    elif way < 0.9 and isinstance(node, dict):
        node[rng.choice(("", "\0", "a.b", "\ud800", "x" * 300, "n_layer"))] = node.pop(key)
    else:
        node[key] = "@deep@"
    text, depth = json.dumps(content), rng.choice((10, 300, 900, 960, 990, 5000, 100_000))
    head, tail = rng.choice((("[", "]"), ('{"a":', "}")))
    if rng.random() < 0.1:  # a key twice
        text = text.replace('{"', '{"' + str(key) + '": 1, "', 1)
    return text.replace('"@deep@"', head * depth + "1" + tail * depth, 1)


def write_input(kind: str, files: list[Path], rng: random.Random, folder: Path) -> Path:
    """A mutated file, or folder with a model; what the reader is given."""
    path, other = rng.choice(files), rng.choice(files).read_bytes()
    target, data = folder / path.name, path.read_bytes()
    if kind == "model":
        shutil.copytree(path.parents[1], folder / "model")
        part = folder / "model" / path.parent.name
        header, _, weights = _split(part / "model.safetensors")
        content = json.loads((part / "config.json").read_text())
        match rng.choice("tthbw"):
            case "t":  # as who writes both: the same in config.json and in the weights' header
                text = mutated_tree(content, rng)
                header["__metadata__"]["config"] = text
                (part / "config.json").write_text(text)
                _join(part / "model.safetensors", json.dumps(header), weights)
            case "h":
                _join(part / "model.safetensors", mutated_tree(header, rng), weights)
            case "b":
                name = rng.choice(("config.json", "model.safetensors"))
                (part / name).write_bytes(mutated((part / name).read_bytes(), other, rng))
            case "w":
                _join(part / "model.safetensors", json.dumps(header), mutated(weights, other, rng))
        return folder / "model"
    if kind == "json" and rng.random() < 0.7:
        data = mutated_tree(json.loads(data), rng).encode()
    elif kind == "yaml" and rng.random() < 0.7:
        data = mutated_tree(YAML(typ="safe").load(data), rng).encode()
        odd = rng.choice(ODD_YAML).encode()
        data = data.replace(b'"\\ud800"', odd) if rng.random() < 0.5 else data
    else:
        data = mutated(data, other, rng)
    if kind == "yaml":
        (folder / "presets").mkdir()
        target = folder / "presets" / path.name
        shutil.copy("params.yaml", folder)
    target.write_bytes(data)
    return target


def _split(path: Path) -> tuple[dict, int, bytes]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), size, data[8 + size :]


def _join(path: Path, header: str, weights: bytes) -> None:
    content = header.encode("utf-8", "surrogatepass")
    path.write_bytes(len(content).to_bytes(8, "little") + content + weights)


# Processes.


def turn(kind: str, seed: int, first: int, out: Path, pipe) -> None:
    """Reads inputs from number `first` on for SLICE seconds; sends a line for each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff prints
    files = sorted(path for path in (out / "seeds" / kind).rglob("*") if path.is_file())

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    end = time.monotonic() + SLICE
    for number in itertools.count(first):
        folder = out / "now" / f"{kind}-{seed}-{number}"
        folder.mkdir(parents=True)
        path = write_input(kind, files, random.Random(f"{seed} {kind} {number}"), folder)
        signal.alarm(SECONDS)
        outcome, text = "accepted", ""
        try:
            KINDS[kind](path)
        except REFUSALS as error:
            outcome, text = "refused", str(error)
            if len(text) > 3000:
                outcome, text = "fault", f"a sentence of {len(text)} letters: {text[:80]}"
        except MemoryError as error:
            outcome, text = "memory", repr(error)
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}:{last.lineno}"
            outcome, text = "fault", f"{type(error).__name__} at {where}: {str(error)[:150]}"
        signal.alarm(0)
        if outcome in ("accepted", "refused"):
            shutil.rmtree(folder)
        pipe.send((outcome, text))
        if time.monotonic() > end:
            break
    used = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    pipe.send(("end", max(resource.getrusage(who).ru_maxrss for who in used) // 1024))


def take_turn(kind: str, seed: int, first: int, out: Path, counts, faults) -> tuple[int, int]:
    """A child's turn: how many inputs it read, and the megabytes that it or an ffmpeg took."""
    receive, send = FORK.Pipe(duplex=False)
    child = FORK.Process(target=turn, args=(kind, seed, first, out, send))
    child.start()
    send.close()
    number, megabytes = first, 0
    while True:
        try:
            if not receive.poll(3 * SECONDS):
                child.kill()
                raise EOFError
            outcome, text = receive.recv()
        except EOFError:  # it died of this input
            child.join()
            outcome, text = "fault", f"died: {child.exitcode}"
        if outcome == "end":
            megabytes = text
            break
        counts[kind][outcome] += 1
        if outcome in ("fault", "memory"):
            faults[f"{kind}: {text}"].append(f"{kind}-{seed}-{number}")
            print(f"{kind}-{seed}-{number}: {outcome} {text}", flush=True)
        number += 1
        if text.startswith("died"):
            break
    child.join()
    return number, megabytes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="a folder for inputs and faults")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = arguments.out / "seeds"
    if not seeds.is_dir():
        child = FORK.Process(target=make_seeds, args=(seeds,))
        child.start()
        child.join()
    hub.from_pretrained(seeds / "model")  # imports what each turn would import again
    counts, faults = collections.defaultdict(collections.Counter), collections.defaultdict(list)
    numbers, most, end = collections.Counter(), collections.Counter(), 60 * arguments.minutes
    end += time.monotonic()
    for kind in itertools.cycle(arguments.kinds):
        if time.monotonic() > end:
            break
        given = kind, arguments.seed, numbers[kind], arguments.out, counts, faults
        numbers[kind], megabytes = take_turn(*given)
        most[kind] = max(most[kind], megabytes)
    print("\n| kind | inputs | accepted | refused | over memory | faults | MB at most |")
    print("|---|---|---|---|---|---|---|")
    for kind in arguments.kinds:
        row = [counts[kind][name] for name in ("accepted", "refused", "memory", "fault")]
        print(f"| {kind} | {sum(row)} | {' | '.join(map(str, row))} | {most[kind]} |")
    for text, names in faults.items():
        print(f"{len(names)} x {text} ({names[0]})")


FORK = multiprocessing.get_context("fork")  # what is imported need not be again

if __name__ == "__main__":
    main()
