"""Evaluation on the test split: the model and its baselines, clip by clip, and the report page.

Protocol: the fixed test split, no augmentation, inner frames only, mean per clip, then over clips;
thirds by motion; paired differences with intervals that resample videos; distances of sets beside
their floors. Writes below `evaluation/`:

    details.json      all numbers, the verdict, what was left out and why
    clips.csv         a row a clip and method             groups.csv   means by motion group
    paired.csv        model minus baseline, intervals     by_frame.csv means by frame index
    codebook.csv      how often each code is used         plots/*.csv  the same for `dvc plots`
    videos/           some clips                          strip.png, reconstruction.png
    report.html       all of it on one page

Memory holds one batch of clips; of each clip some 20 kB of numbers, of each image its features.
"""

import functools
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch

from pipeline import io, progress
from pipeline.config import Params, Section
from pipeline.data.datasets import Clip, ClipSet
from pipeline.errors import UserError
from pipeline.evaluation.distribution import (
    RANKS_FROM,
    VIDEO_DISTANCES,
    VideoSets,
    add_video_numbers,
    measure_tokenizer,
    move_unranked,
)
from pipeline.evaluation.methods import Methods
from pipeline.evaluation.metrics.extractors import VideoFeatures, image_network
from pipeline.evaluation.report import figures
from pipeline.evaluation.report.page import write_page
from pipeline.evaluation.scoring import ClipScorer
from pipeline.evaluation.significance import (
    N_BOOTSTRAP,
    explanations,
    paired_differences,
    significance_numbers,
    verdict,
)
from pipeline.evaluation.summary import (
    UNTRAINED,
    WITHOUT_CODES,
    Remarks,
    code_usage,
    curves,
    group_table,
    headline,
    motion_groups,
    summarize,
)
from pipeline.evaluation.thesis_protocol import ThesisProtocol, choose_frames
from pipeline.inference.inbetweener import InBetweener

DIGITS = 5  # of the tables
N_EXAMPLES = 4  # clips on the page
N_RECONSTRUCTIONS = 5  # images on the page, beside their originals
THESIS_SPLITS = {"none": (), "test": ("test",), "full": ("test", "train")}
THESIS_REPETITIONS = {"test": 1, "full": 5}
# On the page, and so the parameters of the stage: its own, and those of both networks. With others
# of the data, all clips would be drawn again where an edit of them leaves the clips as they are.
PARAMETERS = ("base", "ingest.fit", "ingest.height", "ingest.width")
PARAMETERS += ("frame_subsample.hold_threshold", "clip_chunk.min_frames", "clip_chunk.max_frames")
PARAMETERS += ("flow", "vqgan", "transformer", "train", "evaluate")


def evaluate(
    model: InBetweener,
    shards: Path,
    clips: pd.DataFrame,
    settings: Params,
    out: Path,
    histories: dict[str, Path] | None = None,
) -> dict:
    """Writes everything below `out`; gives the numbers by which the run is judged.

    clips: the rows of clips.parquet; histories: title to history.csv of a training, for the page.
    """
    return Evaluation(model, shards, clips, settings, out).run(histories or {})


class Evaluation:
    """One evaluation of one model."""

    def __init__(
        self, model: InBetweener, shards: Path, clips: pd.DataFrame, settings: Params, out: Path
    ) -> None:
        self.model, self.shards, self.out = model, shards, out
        self.params, self.settings = settings, settings.evaluate
        self.seed, self.remarks = settings.base.seed, Remarks()
        self.clips = ClipSet(shards, "test")
        self.check(self.clips)
        self.about = _clip_info(self.clips, clips)
        hold_threshold = settings.frame_subsample.hold_threshold
        self.scorer = ClipScorer(self.settings, hold_threshold, model.device)
        self.methods = Methods(model, self.settings, self.seed)
        name = self.settings.fid_network
        self.image_network = None if name == "none" else image_network(name, model.device)

    @cached_property
    def video_network(self) -> VideoFeatures:
        """I3D, loaded where something is measured with it."""
        return VideoFeatures(self.methods.model.device)

    def check(self, clips: ClipSet) -> None:
        """Refuses clips of another size than the model's, or with nothing to generate."""
        clips.require_size(self.model.ingest.height, self.model.ingest.width)
        for row, n_frames in enumerate(clips.lengths):
            if n_frames < 3:
                raise UserError(
                    f"clip {clips.clip_id(row)} has {n_frames} frames, expected at least 3: both "
                    "given ones and one between; run `dvc repro clip_chunk`"
                )

    def run(self, histories: dict[str, Path]) -> dict:
        trainings = {title: io.read_csv(path) for title, path in histories.items()}
        splits = THESIS_SPLITS[self.settings.thesis_metrics]
        protocol = self._thesis_protocol("test", self.clips) if "test" in splits else None
        table, videos, examples = self._measure_clips(protocol)
        tokenizer, code_counts = measure_tokenizer(
            self.model,
            self.clips,
            self.scorer.lpips,
            self.image_network,
            self.seed,
            self.remarks,
        )
        pairs = paired_differences(table, N_BOOTSTRAP, self.seed)
        details = {"tokenizer": tokenizer} | summarize(table) | significance_numbers(pairs)
        if videos:
            add_video_numbers(details, videos.numbers(self.seed, self.remarks))
        move_unranked(details)
        if protocol:
            numbers = {"test": protocol.numbers(self.remarks)}
            if "train" in splits:
                numbers["train"] = self._thesis_numbers_of_train()
            details["thesis_metrics"] = {split: row for split, row in numbers.items() if row}
        details |= {"verdict": verdict(pairs), "explanations": explanations(pairs)}
        details |= {"networks": self._networks()} | vars(self.remarks)
        groups, by_frame = group_table(table), self.scorer.by_frame()
        tables = {"clips": table, "groups": groups, "paired": pairs, "by_frame": by_frame}
        tables["codebook"] = code_usage(code_counts)
        self._write(details, tables, examples, trainings)
        return headline(details, table.video_id.nunique())

    def _measure_clips(
        self, protocol: ThesisProtocol | None
    ) -> tuple[pd.DataFrame, VideoSets | None, list[dict[str, torch.Tensor]]]:
        rows, examples, videos = [], [], self._video_sets()
        chosen = choose_examples(self.about, N_EXAMPLES)
        with progress.bar(what="evaluating", unit="clip", total=len(self.clips)) as bar:
            for generated in self.methods.generate(self.clips, self.settings.n_samples):
                clip_id = generated.clip.clip_id
                self._warn_of_plain_frames(generated.clip)
                about = {"clip_id": clip_id} | self.about.loc[clip_id].to_dict()
                rows += self.scorer.rows(generated, about)
                if videos:
                    videos.add(clip_id, generated.clip.frames, generated.methods)
                if protocol:
                    protocol.add(generated)
                if clip_id in chosen:
                    examples.append(figures.panels(generated))
                bar.update()
        return pd.DataFrame(rows), videos, examples

    def _warn_of_plain_frames(self, clip: Clip) -> None:
        """Frames of a single colour are no fault, and no metric says much about them."""
        pixels = clip.frames.flatten(1, 2)  # T HW 3
        plain = int((pixels == pixels[:, :1]).all(2).all(1).sum())
        if plain:
            self.remarks.warn(f"clip {clip.clip_id}: {plain} frames of a single colour")

    def _video_sets(self) -> VideoSets | None:
        """None where nothing is asked for, or where too few clips are there to rank by them."""
        methods = list(self.settings.video_metrics)
        if not self.methods.model.has_context:
            methods = [name for name in methods if name not in (UNTRAINED, WITHOUT_CODES)]
        if methods and len(self.clips) < min(RANKS_FROM[name] for name in VIDEO_DISTANCES):
            for name in VIDEO_DISTANCES:
                reason = f"{len(self.clips)} clips; it ranks from {RANKS_FROM[name]} on"
                self.remarks.leave_out(name, reason)
            return None
        return VideoSets(self.video_network, tuple(methods)) if methods else None

    def _thesis_protocol(self, split: str, clips: ClipSet) -> ThesisProtocol:
        repetitions = THESIS_REPETITIONS[self.settings.thesis_metrics]
        chosen = choose_frames(clips, repetitions, self.seed)
        video = self.video_network if self.settings.thesis_metrics == "full" else None
        return ThesisProtocol(split, chosen, repetitions, self.model.given_frame, video)

    def _thesis_numbers_of_train(self) -> dict:
        clips = ClipSet(self.shards, "train")
        self.check(clips)
        protocol = self._thesis_protocol("train", clips)
        with progress.bar(what="thesis metrics, train", unit="clip", total=len(clips)) as bar:
            for generated in self.methods.generate(clips, n_samples=0):
                protocol.add(generated)
                bar.update()
        return protocol.numbers(self.remarks)

    def _networks(self) -> dict[str, str]:
        """The network behind each learned metric."""
        networks = {}
        if self.settings.lpips_network != "none":
            networks["lpips"] = self.settings.lpips_network
        if "video_network" in vars(self):
            networks["video"] = "i3d_kinetics400"
        return networks

    def _write(
        self,
        details: dict,
        tables: dict[str, pd.DataFrame],
        examples: list[dict[str, torch.Tensor]],
        trainings: dict[str, pd.DataFrame],
    ) -> None:
        io.write_json(self.out / "details.json", details)
        (self.out / "plots").mkdir(exist_ok=True)
        plots = curves(tables["groups"], tables["by_frame"])
        for name, table in (tables | {f"plots/{k}": v for k, v in plots.items()}).items():
            path = self.out / f"{name}.csv"
            table.round(DIGITS).to_csv(path, index=False, lineterminator="\n")
        strips = [
            figures.save_example(example, self.out / "videos", number)
            for number, example in enumerate(examples, 1)
        ]
        figures.save_image(figures.stack(strips), self.out / "strip.png")
        figures.save_image(self._reconstructions(), self.out / "reconstruction.png")
        parameters = {}
        for key in PARAMETERS:
            value = functools.reduce(getattr, key.split("."), self.params)
            value = value.model_dump() if isinstance(value, Section) else value
            parameters |= io.flatten({key: value})
        write_page(self.out, details, tables, parameters, trainings)

    def _reconstructions(self) -> "figures.Image.Image":
        """Middle frames of clips that are spread over all, and the same from their true tokens."""
        true, decoded, titles = [], [], []
        count = min(N_RECONSTRUCTIONS, len(self.clips))
        for row in (int((k + 0.5) * len(self.clips) / count) for k in range(count)):
            clip = self.clips[row].frames
            middle = (len(clip) - 2) // 2
            true.append(clip[1 + middle])
            decoded.append(self.model.round_trip(clip)[0][middle])
            titles.append(f"frame {1 + middle} of {len(clip)}")
        return figures.grid(
            {figures.TRUE: torch.stack(true), "round_trip": torch.stack(decoded)}, titles
        )


def _clip_info(clips: ClipSet, table: pd.DataFrame) -> pd.DataFrame:
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
    info = known.loc[ids, ["video_id", "motion"]].copy()
    info["group"] = motion_groups(info.motion)
    return info.rename(columns={"motion": "clip_motion"})


def choose_examples(info: pd.DataFrame, count: int) -> set[str]:
    """Clips to show: evenly spread over the third with most motion."""
    high = info.index[info.group == "high"]
    return set(high[:: max(1, len(high) // count)][:count])
