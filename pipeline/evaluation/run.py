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

Memory holds one batch of clips, and 400 numbers of each clip.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pipeline import progress
from pipeline.errors import UserError
from pipeline.evaluation import people
from pipeline.evaluation.candidates import Candidates, check_length, check_size
from pipeline.evaluation.clipwise import ClipScorer, Scores
from pipeline.evaluation.notes import Notes
from pipeline.evaluation.seed import SeedRuler, measure_split, plan
from pipeline.evaluation.setwise import (
    RANKS_FROM,
    Extractor,
    ImageTools,
    VideoSets,
    measure_tokenizer,
)
from pipeline.inbetween.drawing import InBetweener
from pipeline.metrics.comparison import RIVALS, paired, verdict
from pipeline.metrics.extractors import FeatureStore, VideoFeatures, image_network
from pipeline.metrics.summary import GROUPS, MODEL, group_table, motion_groups, summarise
from pipeline.params import Params
from pipeline.records import project_root, write_json
from pipeline.shards.loaders import ClipSet, ImageSet, batches

DIGITS = 5  # of the tables


def evaluate(
    model: InBetweener, shards: Path, clips: pd.DataFrame, settings: Params, out: Path
) -> dict:
    """`clips`: the rows of clips.parquet. Gives the content of metrics.json."""
    return Evaluation(model, shards, clips, settings, out).run()


@dataclass
class FrameMeans:
    """Means by frame index, over the clips that are long enough to have that frame."""

    sums: dict[tuple[str, str, int], list[float]] = field(default_factory=dict)

    def add(self, scores: dict[str, Scores]) -> None:
        for candidate, measures in scores.items():
            for measure, values in measures.items():
                for frame, value in enumerate(values, 1):
                    entry = self.sums.setdefault((candidate, measure, frame), [0.0, 0])
                    entry[0] += float(value)
                    entry[1] += 1

    def table(self) -> pd.DataFrame:
        """candidate, frame, n, and a column a measure."""
        rows: dict[tuple[str, int], dict] = {}
        for (candidate, measure, frame), (total, n) in self.sums.items():
            row = rows.setdefault((candidate, frame), {"candidate": candidate, "frame": frame})
            row |= {"n": n, measure: total / n}
        return pd.DataFrame(rows.values())


class Evaluation:
    """One evaluation of one model."""

    def __init__(
        self, model: InBetweener, shards: Path, clips: pd.DataFrame, settings: Params, out: Path
    ) -> None:
        self.model, self.shards, self.out = model, shards, out
        self.all, self.settings = settings, settings.evaluate
        self.seed, self.notes, self.by_frame = settings.base.seed, Notes(), FrameMeans()
        self.clips, self.images = ClipSet(shards, "test"), ImageSet(shards, "test")
        self.about = _about(self.clips, clips)
        hold = settings.frame_subsample.hold_threshold
        self.scorer = ClipScorer(self.settings, hold, model.device)
        self.candidates = Candidates(model, self.settings, self.seed)
        self.store = FeatureStore(project_root() / ".store" / "features")
        self.video_features = self._video_features()
        self.image_tools = self._image_tools()

    def run(self) -> dict:
        seed_ruler = self._seed_ruler("test", self.clips)
        rows, videos, examples = self._measure_clips(seed_ruler)
        tokenizer, uses, pairs_of_pictures = self._measure_tokenizer()
        table = pd.DataFrame(rows)
        pairs = paired(table, self.settings.resamples, self.seed)
        found = {"tokenizer": tokenizer} | summarise(table)
        found["verdict"] = verdict(table, pairs)
        found["paired_high_motion"] = _rivals(pairs)
        found["networks"] = self._networks()
        numbers = videos.numbers(self.settings.halvings, self.seed, self.notes) if videos else {}
        found = _with_video_numbers(found, numbers)
        found |= self._seed_numbers(seed_ruler)
        found = without_rank(found)
        self.store.prune()
        tables = {
            "clips": table,
            "groups": group_table(table),
            "paired": pairs,
            "by_frame": self.by_frame.table(),
            "codebook": _ranked(uses),
        }
        self._write(found, tables)
        people.write(self.out, found, tables, examples, pairs_of_pictures, self.notes, self.all)
        return found

    def _measure_clips(
        self, seed_ruler: SeedRuler | None
    ) -> tuple[list[dict], VideoSets | None, list[people.Example]]:
        rows, examples = [], []
        videos = self._video_sets()
        shown = _shown(self.about, self.settings.strips)
        size = (self.model.ingest.height, self.model.ingest.width)
        with progress.bar(what="evaluating", unit="clip", total=len(self.clips)) as bar:
            for numbers in batches(len(self.clips), self.settings.batch_size):
                batch = [self.clips[number] for number in numbers]
                for clip in batch:
                    check_size(clip, size)
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
                        examples.append(people.Example.of(drawn))
                    bar.update()
        return rows, videos, examples

    def _measure_tokenizer(self) -> tuple[dict, np.ndarray, tuple[torch.Tensor, torch.Tensor]]:
        size = self.settings.batch_size * 8
        numbers, uses = measure_tokenizer(
            self.model, self.images, size, self.image_tools, self.notes
        )
        step = max(1, len(self.images) // people.PAIRS)
        shown = self.images.batch(range(0, len(self.images), step)[: people.PAIRS])
        return numbers, uses, (shown, self.model.round_trip(shown)[0].cpu())

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
        wanted = tuple(self.settings.video_metrics)
        return VideoSets(self.video_features, wanted) if wanted else None

    def _seed_ruler(self, split: str, clips: ClipSet) -> SeedRuler | None:
        ruler = self.settings.seed_ruler
        if split not in ruler.splits:
            return None
        video = self.video_features if ruler.video_metrics else None
        chosen = plan(clips, ruler.repetitions, self.seed)
        return SeedRuler(split, chosen, ruler.repetitions, self._round_trip, video)

    def _round_trip(self, images: torch.Tensor) -> torch.Tensor:
        return self.model.round_trip(images)[0].cpu()

    def _seed_numbers(self, test: SeedRuler | None) -> dict:
        """`seed_ruler` by split, or nothing where it is switched off or has too few clips."""
        rulers = [test] if test else []
        if "train" in self.settings.seed_ruler.splits:
            clips = ClipSet(self.shards, "train")
            train = self._seed_ruler("train", clips)
            measure_split(train, clips, self.candidates)
            rulers.append(train)
        found = {ruler.split: ruler.numbers(self.notes) for ruler in rulers}
        found = {split: numbers for split, numbers in found.items() if numbers}
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
        for name, table in (tables | curves_of(tables)).items():
            path = self.out / f"{name}.csv"
            table.round(DIGITS).to_csv(path, index=False, lineterminator="\n")


def _about(clips: ClipSet, table: pd.DataFrame) -> pd.DataFrame:
    """video_id, motion and group of each test clip, by clip_id, in the order of the shards."""
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
    return about


def _shown(about: pd.DataFrame, count: int) -> set[str]:
    """Clips for people to look at: evenly spread over the third with most motion."""
    moving = about.index[about.group == "high"]
    return set(moving[:: max(1, len(moving) // count)][:count])


def _rivals(pairs: pd.DataFrame) -> dict:
    """Mean and interval of the paired differences that the verdict is made of."""
    rows = pairs[(pairs.group == "high") & pairs.baseline.isin(RIVALS)]
    found: dict[str, dict] = {}
    for row in rows.itertuples():
        numbers = {"mean": row.mean, "low": row.low, "high": row.high}
        numbers = {key: float(value) for key, value in numbers.items() if pd.notna(value)}
        found.setdefault(row.baseline, {})[row.measure] = numbers
    return found


def _with_video_numbers(found: dict, numbers: dict[str, dict]) -> dict:
    """FVD and KVD beside the other numbers of their candidate (all clips only)."""
    for name, values in numbers.items():
        (found["inbetween"] if name == MODEL else found["baselines"][name]).update(values)
    return found


def without_rank(found: dict) -> dict:
    """Moves distances of too few samples under `unranked`, each at its own place there."""
    unranked: dict = {}
    places = {("tokenizer",): found["tokenizer"], ("inbetween",): found["inbetween"]}
    places |= {("baselines", name): row for name, row in found["baselines"].items()}
    for path, numbers in places.items():
        for key in [k for k in numbers if f"{k}_floor" in numbers]:
            fewest = RANKS_FROM[key.split("_")[0]]
            if fewest is not None and numbers[f"{key}_n"] >= fewest:
                continue
            place = unranked
            for part in path:
                place = place.setdefault(part, {})
            place |= {k: numbers.pop(k) for k in list(numbers) if k == key or _beside(key, k)}
    return found | ({"unranked": unranked} if unranked else {})


def _beside(key: str, other: str) -> bool:
    return other in {f"{key}_{x}" for x in ("deviation", "floor", "floor_deviation", "n")}


def curves_of(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """A column a candidate, as `dvc plots` wants its curves: by frame, and by third of motion."""
    groups = tables["groups"]
    thirds = {group: number for number, group in enumerate(GROUPS, 1)}
    thirds = groups[groups.group != "all"].assign(third=groups.group.map(thirds))
    found = {}
    for name, table, x in (("frame", tables["by_frame"], "frame"), ("motion", thirds, "third")):
        for measure in ("psnr", "lpips"):
            if measure in table:
                wide = table.pivot(index=x, columns="candidate", values=measure)
                found[f"plots/by_{name}_{measure}"] = wide.reset_index()
    return found


def _ranked(uses: np.ndarray) -> pd.DataFrame:
    """Share of all tokens by rank of the code: a flat curve is a codebook in full use."""
    share = np.sort(uses)[::-1] / max(1, uses.sum())
    return pd.DataFrame({"rank": np.arange(1, len(share) + 1), "share": share})
