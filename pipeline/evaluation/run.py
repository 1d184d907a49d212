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
That is also what is saved between two batches, so that a killed evaluation continues.
"""

import functools
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch

from pipeline import io, progress
from pipeline.config import Params, Section
from pipeline.data.datasets import Clip, ClipSet, batches
from pipeline.errors import UserError
from pipeline.evaluation.distribution import (
    RANKS_FROM,
    VIDEO_DISTANCES,
    TokenizerSets,
    VideoSets,
    add_video_numbers,
    move_unranked,
)
from pipeline.evaluation.methods import GeneratedClip, Methods
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
from pipeline.resume import Resume, saved_between

BATCH_SIZE = 8  # clips that the model generates at once
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


def parameters(settings: Params) -> dict[str, object]:
    """Dotted keys and values of all that the numbers depend on."""
    values = {}
    for key in PARAMETERS:
        value = functools.reduce(getattr, key.split("."), settings)
        value = value.model_dump() if isinstance(value, Section) else value
        values |= io.flatten({key: value})
    return values


def evaluate(
    model: InBetweener,
    shards: Path,
    clips: pd.DataFrame,
    settings: Params,
    out: Path,
    histories: dict[str, Path] | None = None,
    resume: Resume | None = None,
) -> dict:
    """Writes everything below `out`; gives the numbers by which the run is judged.

    clips: the rows of clips.parquet; histories: title to history.csv of a training, for the page.
    The saved state stays: call `resume.clear()` once all of the stage's output is on disk.
    """
    return Evaluation(model, shards, clips, settings, out, resume).run(histories or {})


class Evaluation:
    """One evaluation of one model."""

    KEPT = ("rows", "examples", "done")  # what a killed one goes on with

    def __init__(
        self,
        model: InBetweener,
        shards: Path,
        clips: pd.DataFrame,
        settings: Params,
        out: Path,
        resume: Resume | None = None,
    ) -> None:
        self.model, self.shards, self.out, self.resume = model, shards, out, resume
        self.params, self.settings = settings, settings.evaluate
        self.seed, self.remarks = settings.base.seed, Remarks()
        self.clips = ClipSet(shards, "test")
        self.check(self.clips)
        self.about = _clip_info(self.clips, clips)
        hold_threshold = settings.frame_subsample.hold_threshold
        self.scorer = ClipScorer(self.settings, hold_threshold, model.device)
        self.methods = Methods(model, self.settings, self.seed)
        name = self.settings.fid_network
        network = None if name == "none" else image_network(name, model.device)
        self.tokenizer = TokenizerSets(model, self.scorer.lpips, network)
        self.videos = self._video_sets()
        splits = THESIS_SPLITS[self.settings.thesis_metrics]
        self.protocols = {split: self._thesis_protocol(split) for split in splits}
        self.chosen = choose_examples(self.about, N_EXAMPLES)
        self.rows: list[dict] = []  # one a clip and method
        self.examples: list[dict[str, torch.Tensor]] = []
        self.done: dict[str, int] = {}  # by split: batches of clips

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
        self._restore()
        self._walk("test", self.clips, self.settings.n_samples, self._measure)
        table = pd.DataFrame(self.rows)
        tokenizer, code_counts = self.tokenizer.numbers(self.seed, self.remarks)
        pairs = paired_differences(table, N_BOOTSTRAP, self.seed)
        details = {"tokenizer": tokenizer} | summarize(table) | significance_numbers(pairs)
        if self.videos:
            add_video_numbers(details, self.videos.numbers(self.seed, self.remarks))
        move_unranked(details)
        if self.protocols:
            numbers = {"test": self.protocols["test"].numbers(self.remarks)}
            if train := self.protocols.get("train"):
                self._walk("train", self._clips_of("train"), 0, train.add)
                numbers["train"] = train.numbers(self.remarks)
            details["thesis_metrics"] = {split: row for split, row in numbers.items() if row}
        details |= {"verdict": verdict(pairs), "explanations": explanations(pairs)}
        details |= {"networks": self._networks()} | vars(self.remarks)
        groups, by_frame = group_table(table), self.scorer.by_frame()
        tables = {"clips": table, "groups": groups, "paired": pairs, "by_frame": by_frame}
        tables["codebook"] = code_usage(code_counts)
        self._write(details, tables, self.examples, trainings)
        return headline(details, table.video_id.nunique())

    def _walk(
        self, split: str, clips: ClipSet, n_samples: int, use: Callable[[GeneratedClip], None]
    ) -> None:
        """Generates all clips of a split for `use`, those that a killed run did not come to."""
        done = self.done.get(split, 0)
        waiting = list(batches(len(clips), BATCH_SIZE))[done:]
        with progress.bar(what=f"evaluating, {split}", unit="clip", total=len(clips)) as bar:
            bar.n = bar.initial = min(done * BATCH_SIZE, len(clips))
            interval = self.params.engine.checkpoint_interval
            for rows in saved_between(waiting, self._save, interval):
                for generated in self.methods.generate([clips[row] for row in rows], n_samples):
                    use(generated)
                    bar.update()
                self.done[split] = self.done.get(split, 0) + 1

    def _measure(self, generated: GeneratedClip) -> None:
        """One clip of test."""
        clip_id, frames = generated.clip
        self._warn_of_plain_frames(generated.clip)
        self.rows += self.scorer.rows(
            generated, {"clip_id": clip_id} | self.about.loc[clip_id].to_dict()
        )
        self.tokenizer.add(frames)
        if self.videos:
            self.videos.add(clip_id, frames, generated.methods)
        if self.protocols:
            self.protocols["test"].add(generated)
        if clip_id in self.chosen:
            self.examples.append(figures.panels(generated))

    def _parts(self) -> dict:
        """Everything that grows with the clips, by name."""
        parts = {"evaluation": self, "scorer": self.scorer, "tokenizer": self.tokenizer}
        parts |= {"remarks": self.remarks, "videos": self.videos}
        parts |= {f"thesis, {split}": protocol for split, protocol in self.protocols.items()}
        return {name: part for name, part in parts.items() if part}

    def _save(self) -> None:
        if self.resume:
            state = {"random": self.methods.generator.get_state()}
            for name, part in self._parts().items():
                state[name] = {key: getattr(part, key) for key in part.KEPT}
            self.resume.save(state)

    def _restore(self) -> None:
        state = self.resume.load() if self.resume else None
        if state:
            self.methods.generator.set_state(state["random"])
            for name, part in self._parts().items():
                for key in part.KEPT:
                    setattr(part, key, state[name][key])

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

    def _clips_of(self, split: str) -> ClipSet:
        clips = self.clips if split == "test" else ClipSet(self.shards, split)
        self.check(clips)
        return clips

    def _thesis_protocol(self, split: str) -> ThesisProtocol:
        repetitions = THESIS_REPETITIONS[self.settings.thesis_metrics]
        chosen = choose_frames(self._clips_of(split), repetitions, self.seed)
        video = self.video_network if self.settings.thesis_metrics == "full" else None
        return ThesisProtocol(split, chosen, repetitions, self.model.given_frame, video)

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
        plots = curves(tables["groups"], tables["by_frame"])
        tables = tables | {f"plots/{name}": table for name, table in plots.items()}
        # also for the page: its charts show the last bit of a float, which may differ between runs
        tables = {name: table.round(DIGITS) for name, table in tables.items()}
        for name, table in tables.items():
            io.write_csv(table, self.out / f"{name}.csv")
        strips = [
            figures.save_example(example, self.out / "videos", number)
            for number, example in enumerate(examples, 1)
        ]
        io.write_png(figures.stack(strips), self.out / "strip.png")
        io.write_png(self._reconstructions(), self.out / "reconstruction.png")
        write_page(self.out, details, tables, parameters(self.params), trainings)

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
