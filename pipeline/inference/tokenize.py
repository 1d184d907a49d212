"""Clips to token ids and context features, once, with the trained tokenizer.

What the transformer is trained on. With keyframes as context, clips of the train split come in
four variants, mirrored and run backwards, each with its features; val clips as they are. Test
clips are not needed: `evaluate` draws them from their pictures. What is done is saved as parts of
the tables: a killed run continues with the clip after the last part.
"""

from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch

from pipeline import frames, io, progress
from pipeline.data.datasets import Clip, ClipSet
from pipeline.errors import UserError
from pipeline.models.checkpoints import LoadedTokenizer
from pipeline.models.flow import Flow, FlowEstimator, make_context
from pipeline.models.vqgan.keyframes import KeyframeTokenizer
from pipeline.models.vqgan.previous import PreviousTokenizer
from pipeline.models.vqgan.quantizers import perplexity
from pipeline.resume import saved_between
from pipeline.runtime import autocast

SPLITS = ("train", "val")


def precompute(
    loaded: LoadedTokenizer,
    shards: Path,
    out: Path,
    device: torch.device,
    precision: str,
    parts: Path,
    batch_size: int = 64,
    interval: float = 60.0,
) -> dict:
    """Writes `out/<split>.parquet`, a row a clip and variant; gives counts and the codes' use.

    parts: a folder for what is done so far, which stays: remove it once the stage's output is on
    disk. batch_size: frames that go through the networks at once; interval: seconds between two
    saved parts, at least.
    """
    encoder = ClipEncoder(loaded, device, precision, batch_size)
    uses = np.zeros(len(loaded.tokenizer.codebook), np.int64)
    counts: dict[str, float] = {"frames": 0}
    for split in SPLITS:
        clips = ClipSet(shards, split)
        clips.require_size(loaded.ingest.height, loaded.ingest.width)
        variants = encoder.variants if split == "train" else [(False, False)]
        rows: list[dict] = []
        paths, done = _saved_parts(parts / split, len(variants))
        save = partial(_save_part, rows, paths, parts / split, len(variants))
        with progress.bar(what=f"tokens, {split}", unit="clip", total=len(clips)) as bar:
            bar.n = bar.initial = done
            for number in saved_between(range(done, len(clips)), save, interval):
                rows += encoder.rows(clips[number], variants)
                bar.update()
        if rows:
            save()
        with io.table_writer(io.TOKENS, out / f"{split}.parquet") as add:
            for path in paths:
                for row in io.read_rows(path, io.TOKENS):
                    add(row._asdict())
                    ids = row.tokens.reshape(row.n_frames, -1)
                    uses += np.bincount(ids[1:-1].flatten(), minlength=len(uses))  # not the given
                    counts["frames"] += row.n_frames
        counts[f"clips_{split}"] = len(clips)
    return counts | {
        "codebook_usage": float((uses > 0).mean()),
        "perplexity": float(perplexity(torch.from_numpy(uses))),
        "most_frequent_code": float(uses.max() / max(1, uses.sum())),
    }


class ClipEncoder:
    """A trained tokenizer that encodes clips; `estimator` is None without keyframes as context."""

    def __init__(
        self, loaded: LoadedTokenizer, device: torch.device, precision: str, batch_size: int
    ) -> None:
        self.loaded, self.tokenizer, self.device = loaded, loaded.tokenizer, device
        self.precision, self.batch_size = precision, batch_size
        self.estimator = None
        if isinstance(self.tokenizer, KeyframeTokenizer):
            self.estimator = FlowEstimator(loaded.flow_method, device)

    @property
    def variants(self) -> list[tuple[bool, bool]]:
        """Of a clip of train: mirrored or not, reversed or not."""
        both = (False, True)
        if isinstance(self.tokenizer, KeyframeTokenizer):
            return [*product(both, both)]
        backwards = both if isinstance(self.tokenizer, PreviousTokenizer) else (False,)
        return [*product((False,), backwards)]

    def rows(self, clip: Clip, variants: list[tuple[bool, bool]]) -> Iterator[dict]:
        """A row of the table for each variant."""
        images, flow = clip.frames, None
        if self.estimator is not None:
            flow = self.estimator(images[0].numpy(), images[-1].numpy())
        for flipped, reverse in variants:
            if isinstance(self.tokenizer, PreviousTokenizer):
                ids, features = self._sequence(images.flip(0) if reverse else images)
            elif flow is None:
                ids, features = self._whole_frames(images), torch.empty(0)
            else:
                ids, features = self._between_keyframes(images, flow, flipped, reverse)
            yield {
                "clip_id": clip.clip_id,
                "flipped": flipped,
                "reversed": reverse,
                "n_frames": len(ids),
                "tokens": ids.flatten().numpy().astype("uint16"),
                "features": features.numpy().astype(np.float16).tobytes(),
            }

    # Clips uint8 `n H W 3` to ids int64 `n N`, and features float `n N C`, on the CPU.

    def _sequence(self, clip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images = frames.to_float(clip[None].to(self.device))
        with autocast(self.device, self.precision):
            length = torch.tensor([len(clip)], device=self.device)
            ids, features = self.tokenizer.encode_sequence(images, length)
        return ids[0].cpu(), features[0].cpu()

    @torch.no_grad()
    def _whole_frames(self, clip: torch.Tensor) -> torch.Tensor:
        ids = []
        for part in clip.split(self.batch_size):
            images = frames.to_float(part.to(self.device))
            with autocast(self.device, self.precision):
                ids.append(self.tokenizer.encode(images).cpu())
        return torch.cat(ids)

    @torch.no_grad()
    def _between_keyframes(
        self, clip: torch.Tensor, flow: Flow, flipped: bool, reverse: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if flipped:
            clip, flow = clip.flip(2), flow.mirror()
        if reverse:
            clip, flow = clip.flip(0), flow.reverse()
        exponent = torch.tensor(self.loaded.easing.exponent(clip[0], clip[-1]), device=self.device)
        ends = [frames.to_float(clip[k][None].to(self.device)) for k in (0, -1)]  # 1 3 H W
        flow = flow.to(self.device)
        ids, features = [], []
        for numbers in torch.arange(len(clip)).split(self.batch_size):
            images = frames.to_float(clip[numbers].to(self.device))
            with autocast(self.device, self.precision):
                time = (numbers / max(1, len(clip) - 1)).view(-1, 1, 1, 1).to(self.device)
                both = [end.expand(len(numbers), -1, -1, -1) for end in ends]
                context = make_context(*both, flow, time, exponent)
                ids.append(self.tokenizer.encode(images, context).cpu())
                features.append(self.tokenizer.context_features(context).cpu())
        ids = torch.cat(ids)
        ids[0] = ids[-1] = 0  # given: the eased warp is the keyframe itself, as in generation
        return ids, torch.cat(features)


def _saved_parts(folder: Path, rows_a_clip: int) -> tuple[list[Path], int]:
    """Parts of a killed run, each from where the one before ends; and the clips that they hold.

    A part is named by its clips, `<first>-<end>.parquet`: behind a damaged one, which is made
    again, others may follow that begin elsewhere.
    """
    paths, end = [], 0
    while True:
        for path in sorted(folder.glob(f"{end:06d}-*.parquet")):
            clips = int(path.stem.partition("-")[2]) - end
            try:
                whole = len(io.read_table(path, io.TOKENS)) == clips * rows_a_clip
            except UserError:
                continue
            if whole and clips:
                break
        else:
            return paths, end
        paths.append(path)
        end += clips


def _save_part(rows: list[dict], paths: list[Path], folder: Path, rows_a_clip: int) -> None:
    """Makes a part of the rows, which are emptied."""
    first = int(paths[-1].stem.partition("-")[2]) if paths else 0
    path = folder / f"{first:06d}-{first + len(rows) // rows_a_clip:06d}.parquet"
    io.write_table(rows, io.TOKENS, path)
    paths.append(path)
    rows.clear()
