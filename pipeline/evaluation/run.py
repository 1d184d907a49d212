"""Evaluation on the test split: the model and its baselines, clip by clip, and what people see.

Protocol: the fixed test split, no augmentation, inner frames only, mean per clip, then over clips;
thirds by motion; paired differences with intervals that resample videos; distances of sets beside
their floors. Writes below `evaluation/`:

    metrics.json      all numbers (the names of metrics/evaluate.json)
    notes.json        what was left out and why, warnings
    clips.csv         a row a clip and candidate          groups.csv   means by motion group
    paired.csv        model minus baseline, intervals     by_frame.csv means by frame index
    codebook.csv      how often each code is used         plots/*.csv  the same for `dvc plots`
    videos/*.mp4      some clips                          strip.png, reconstruction.png
    report.html       all of it on one page

Memory holds one batch of clips; of each clip some 20 kB of numbers, of each picture its features.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pipeline import progress
from pipeline.config import Params
from pipeline.data.datasets import Clip, ClipSet, batches
from pipeline.errors import UserError
from pipeline.evaluation import aggregate, visuals
from pipeline.evaluation.aggregate import FrameMeans
from pipeline.evaluation.distribution import (
    RANKS_FROM,
    VIDEO_MEASURES,
    Extractor,
    ImageTools,
    VideoSets,
    measure_tokenizer,
)
from pipeline.evaluation.methods import Candidates, check_length, check_size
from pipeline.evaluation.metrics.extractors import FeatureStore, VideoFeatures, image_network
from pipeline.evaluation.per_clip import ClipScorer
from pipeline.evaluation.statistics.paired_tests import paired, verdict
from pipeline.evaluation.statistics.summary import group_table, motion_groups, summarise
from pipeline.evaluation.thesis_protocol import SeedRuler, measure_split, plan
from pipeline.evaluation.warnings import Notes
from pipeline.inference.inbetweener import InBetweener
from pipeline.io import project_root, write_json

DIGITS = 5  # of the tables


def evaluate(
    model: InBetweener,
    shards: Path,
    clips: pd.DataFrame,
    settings: Params,
    out: Path,
    histories: dict[str, Path] | None = None,
) -> dict:
    """Gives the content of metrics.json.

    clips: the rows of clips.parquet; histories: title to history.csv of a training, for the page.
    """
    return Evaluation(model, shards, clips, settings, out).run(histories or {})


class Evaluation:
    """One evaluation of one model."""

    def __init__(
        self, model: InBetweener, shards: Path, clips: pd.DataFrame, settings: Params, out: Path
    ) -> None:
        self.model, self.shards, self.out = model, shards, out
        self.all, self.settings = settings, settings.evaluate
        self.seed, self.notes, self.by_frame = settings.base.seed, Notes(), FrameMeans()
        self.clips = ClipSet(shards, "test")
        self.about = _about(self.clips, clips)
        hold = settings.frame_subsample.hold_threshold
        self.scorer = ClipScorer(self.settings, hold, model.device)
        self.candidates = Candidates(model, self.settings, self.seed)
        self.store = FeatureStore(project_root() / ".store" / "features")
        self.video_features = self._video_features()
        self.image_tools = self._image_tools()

    def run(self, histories: dict[str, Path]) -> dict:
        seed_ruler = self._seed_ruler("test", self.clips)
        rows, videos, examples = self._measure_clips(seed_ruler)
        tokenizer, uses, pairs_of_pictures = self._measure_tokenizer()
        table = pd.DataFrame(rows)
        pairs = paired(table, self.settings.resamples, self.seed)
        found = {"tokenizer": tokenizer} | summarise(table)
        found |= aggregate.rivals(pairs)
        if videos:
            of_videos = videos.numbers(self.settings.halvings, self.seed, self.notes)
            found = aggregate.with_video_numbers(found, of_videos)
        found = aggregate.without_rank(found) | self._seed_numbers(seed_ruler)
        self.notes.verdict, self.notes.networks = verdict(pairs), self._networks()
        self.store.prune()
        tables = {
            "clips": table,
            "groups": group_table(table),
            "paired": pairs,
            "by_frame": self.by_frame.table(),
            "codebook": aggregate.ranked_codes(uses),
        }
        self._write(found, tables)
        tables |= {title: pd.read_csv(path) for title, path in histories.items()}
        shown = visuals.Shown(examples, *pairs_of_pictures, list(histories))
        visuals.write(self.out, found, tables, shown, self.notes, self.all)
        return found

    def _measure_clips(
        self, seed_ruler: SeedRuler | None
    ) -> tuple[list[dict], VideoSets | None, list[visuals.Example]]:
        rows, examples = [], []
        videos = self._video_sets()
        shown = _shown(self.about, self.settings.strips)
        size = (self.model.ingest.height, self.model.ingest.width)
        with progress.bar(what="evaluating", unit="clip", total=len(self.clips)) as bar:
            for places in batches(len(self.clips), self.settings.batch_size):
                batch = [self.clips[place] for place in places]
                for clip in batch:
                    check_size(clip, size)
                    self._note_constant(clip)
                for drawn in self.candidates.draw(batch):
                    clip_id = drawn.clip.clip_id
                    about = {"clip_id": clip_id} | self.about.loc[clip_id].to_dict()
                    its_rows, scores = self.scorer.rows(drawn, about)
                    rows += its_rows
                    self.by_frame.add(scores)
                    if videos:
                        videos.add(clip_id, drawn.clip.frames, drawn.candidates)
                    if seed_ruler:
                        seed_ruler.add(drawn)
                    if clip_id in shown:
                        examples.append(visuals.Example.of(drawn))
                    bar.update()
        return rows, videos, examples

    def _note_constant(self, clip: Clip) -> None:
        """Frames of one colour are no fault, and no measure says much of them."""
        flat = clip.frames.flatten(1, 2)  # T HW 3
        constant = int((flat == flat[:, :1]).all(2).all(1).sum())
        if constant:
            self.notes.warn(f"clip {clip.clip_id}: {constant} frames of a single colour")

    def _measure_tokenizer(self) -> tuple[dict, np.ndarray, tuple[torch.Tensor, torch.Tensor]]:
        found, uses = measure_tokenizer(self.model, self.clips, self.image_tools, self.notes)
        step = max(1, len(self.clips) // visuals.PAIRS)
        true, decoded = [], []
        for number in range(0, len(self.clips), step)[: visuals.PAIRS]:
            clip = self.clips[number].frames
            middle = (len(clip) - 2) // 2
            true.append(clip[1 + middle])
            decoded.append(self.model.round_trip(clip)[0][middle])
        return found, uses, (torch.stack(true), torch.stack(decoded))

    def _video_features(self) -> Extractor | None:
        ruler = self.settings.seed_ruler
        if self.settings.video_metrics or (ruler.video_metrics and ruler.splits):
            network = VideoFeatures(self.settings.weights_folder, self.model.device)
            return Extractor(network, self.store)
        return None

    def _image_tools(self) -> ImageTools:
        choice, folder = self.settings.fid_network, self.settings.weights_folder
        features = None
        if choice != "none":
            features = Extractor(image_network(choice, folder, self.model.device), self.store)
        perceptual = self.scorer.perceptual
        return ImageTools(perceptual, features, self.settings.halvings, self.seed)

    def _video_sets(self) -> VideoSets | None:
        """None where nothing is asked for, or where too few clips are there to rank by them."""
        wanted = tuple(self.settings.video_metrics)
        least = min(RANKS_FROM[measure] for measure in VIDEO_MEASURES)
        if wanted and len(self.clips) < least:
            for measure in VIDEO_MEASURES:
                reason = f"{len(self.clips)} clips; it ranks from {RANKS_FROM[measure]} on"
                self.notes.leave_out(measure, reason)
            return None
        return VideoSets(self.video_features, wanted) if wanted else None

    def _seed_ruler(self, split: str, clips: ClipSet) -> SeedRuler | None:
        ruler = self.settings.seed_ruler
        if split not in ruler.splits:
            return None
        video = self.video_features if ruler.video_metrics else None
        chosen = plan(clips, ruler.repetitions, self.seed)
        return SeedRuler(split, chosen, ruler.repetitions, self.model.given_frame, video)

    def _seed_numbers(self, test: SeedRuler | None) -> dict:
        """`seed_ruler` by split, or nothing where it is switched off or has too few clips."""
        rulers = [test] if test else []
        if "train" in self.settings.seed_ruler.splits:
            clips = ClipSet(self.shards, "train")
            train = self._seed_ruler("train", clips)
            measure_split(train, clips, self.candidates)
            rulers.append(train)
        found = {ruler.split: ruler.numbers(self.notes) for ruler in rulers}
        found = {split: candidates for split, candidates in found.items() if candidates}
        return {"seed_ruler": found} if found else {}

    def _networks(self) -> dict[str, str]:
        """Which network each learned measure looks through; every number says its ruler."""
        named = {}
        if self.settings.lpips_network != "none":
            named["lpips"] = self.settings.lpips_network
        if self.settings.video_metrics:
            named["video"] = "i3d_kinetics400"
        return named

    def _write(self, found: dict, tables: dict[str, pd.DataFrame]) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(self.out / "metrics.json", found)
        self.notes.write(self.out / "notes.json")
        (self.out / "plots").mkdir(exist_ok=True)
        curves = aggregate.curves(tables["groups"], tables["by_frame"])
        curves = {f"plots/{name}": table for name, table in curves.items()}
        for name, table in (tables | curves).items():
            path = self.out / f"{name}.csv"
            table.round(DIGITS).to_csv(path, index=False, lineterminator="\n")


def _about(clips: ClipSet, table: pd.DataFrame) -> pd.DataFrame:
    """video_id, clip_motion and group of each test clip, by clip_id, in the order of the shards.

    clip_motion is that of clips.parquet, over all frames: the one that makes the groups.
    """
    ids = [clips.clip_id(row) for row in range(len(clips))]
    known = table.set_index("clip_id")
    missing = [clip_id for clip_id in ids if clip_id not in known.index]
    if missing:
        raise UserError(
            f"clip {missing[0]} stands in the shards and not in clips.parquet; run `dvc repro`"
        )
    for clip_id, n_frames in zip(ids, clips.lengths, strict=True):
        check_length(clip_id, n_frames)
    about = known.loc[ids, ["video_id", "motion"]].copy()
    about["group"] = motion_groups(about.motion)
    return about.rename(columns={"motion": "clip_motion"})


def _shown(about: pd.DataFrame, count: int) -> set[str]:
    """Clips for people to look at: evenly spread over the third with most motion."""
    moving = about.index[about.group == "high"]
    return set(moving[:: max(1, len(moving) // count)][:count])
