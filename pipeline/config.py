"""Typed parameters: `params.yaml` in, frozen objects out, every mistake named at once.

One frozen class a section. A key that is unknown, missing, of another type or out of range is
reported with its value and what is allowed, and so are values that are fine alone and impossible
together (`broken_rules` of the section that holds them). Nothing here computes a result: no stage
depends on this file.
"""

import difflib
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import CollectionNode

from pipeline.errors import UserError, read_text

PARAMS_FILE = Path("params.yaml")
CANVAS = 64  # pixels a side of Moving MNIST
KEYFRAME_STRIDE = 16  # pixels of the smallest feature of the decoder with context
ALEXNET_SIDE = 31  # smaller pictures do not pass its poolings
MOST_FRAMES = 1000  # of a clip
MOST_WEIGHTS = 10**10  # of the transformer; GPT-2's largest has 1.6e9
MOST_BYTES = 2**17  # of a YAML file
MOST_MISTAKES = 20  # lines of an error

# Of torchrun; each but one takes a value, so that no word of a preset is the script that it runs.
LAUNCH_OPTION = (
    r"--(standalone|(nnodes|nproc[-_]per[-_]node|node[-_]rank|max[-_]restarts|master[-_](addr|port)"
    r"|rdzv[-_](id|backend|endpoint|conf)|local[-_]addr)[ =][\w.:,=+][\w.:,=+-]*)"
)

Count = Annotated[int, Field(ge=1, le=10**6)]
Batch = Annotated[int, Field(ge=1, le=65536)]
Size = Annotated[int, Field(ge=1, le=8192)]  # channels, and the like, of a network
Layers = Annotated[int, Field(ge=1, le=1000)]
Parallel = Annotated[int, Field(ge=1, le=1024)]  # threads, processes
Number = Annotated[int, Field(ge=0, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
UpToOne = Annotated[float, Field(ge=0.0, le=1.0)]
AboveZero = Annotated[float, Field(gt=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0, le=10**6)]
Positive = Annotated[float, Field(gt=0.0, le=10**6)]
Betas = Annotated[list[Probability], Field(min_length=2, max_length=2)]
Text = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")]
Name = Annotated[Text, Field(min_length=1)]


def _count_or_all(value: object) -> int | str:
    if value == "all" or (type(value) is int and 1 <= value <= MOST_FRAMES):
        return value
    raise PydanticCustomError("count_or_all", f"integer from 1 to {MOST_FRAMES}, or all")


def _integer(value: object) -> object:
    if type(value) is int:  # to Literal, true is 1
        return value
    raise PydanticCustomError("int_type", "integer")


CountOrAll = Annotated[int | str, PlainValidator(_count_or_all)]


def _device(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"cpu|cuda(:\d+)?", value):
        return value
    raise PydanticCustomError("device", "cpu, cuda or cuda:N")


def _launcher(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(f"python|torchrun( {LAUNCH_OPTION})*", value):
        return value  # a part of a shell's command line
    raise PydanticCustomError("launcher", "python, or torchrun with options of nodes and processes")


class Section(BaseModel):
    """Base of all sections: no unknown keys, no silent conversions, no change after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def broken_rules(self) -> Iterator[str]:
        """A sentence for each pair of values that are fine alone and impossible together."""
        return iter(())

    @model_validator(mode="after")
    def _refuse_broken_rules(self) -> "Section":
        if sentences := list(self.broken_rules()):
            text = "\n".join(sentences)
            raise PydanticCustomError("broken_rules", "{text}", {"text": text})
        return self


class Base(Section):
    seed: Seed
    device: Annotated[str, PlainValidator(_device)]
    precision: Literal["float32", "bf16"]
    threads: Parallel
    launcher: Annotated[str, PlainValidator(_launcher)]
    gradient_checkpointing: bool


class MovingMnist(Section):
    train_sequences: Count
    test_sequences: Count
    epoch_sequences: Number


class Source(Section):
    kind: Literal["videos", "moving_mnist"]
    path: Name
    moving_mnist: MovingMnist


class SampleEpisodes(Section):
    episodes: Annotated[int, Field(ge=1, le=100)]
    seconds: Annotated[float, Field(ge=4.0, le=3600.0)]


class FrameSize(Section):
    """What a trained model remembers of the frames it saw."""

    height: Annotated[int, Field(ge=16, le=1024)]
    width: Annotated[int, Field(ge=16, le=1024)]
    fit: Literal["squeeze", "crop", "pad"]


class Ingest(FrameSize):
    fps: Annotated[float, Field(ge=0.0, le=1000.0)]
    deinterlace: bool
    crop_letterbox: bool
    compression: Literal["none", "lz4", "zstd"]
    on_error: Literal["reject", "fail"]

    def broken_rules(self) -> Iterator[str]:
        if 0 < self.fps < 1:
            yield f"ingest.fps = {self.fps:g}: expected 0 (every frame), or 1 and more"

    @property
    def frame_size(self) -> FrameSize:
        return FrameSize(height=self.height, width=self.width, fit=self.fit)


class SceneSplit(Section):
    detector: Literal["content", "adaptive", "threshold", "transnetv2"]
    threshold: Annotated[float, Field(gt=0.0, le=255.0)]
    weights: Annotated[list[Weight], Field(min_length=4, max_length=4)]
    min_scene_seconds: Weight

    def broken_rules(self) -> Iterator[str]:
        if not sum(self.weights):
            yield f"scene_split.weights = {self.weights}: expected one above 0"


class FrameSubsample(Section):
    image_step: Count
    hold_threshold: Annotated[float, Field(ge=0.0, le=255.0)]
    clip_frames: Literal["all", "unique"]


class ClipFilters(Section):
    min_motion: Weight
    min_contrast: Weight
    max_luma_change: Weight


class ClipChunk(Section):
    min_frames: Annotated[int, Field(ge=3, le=MOST_FRAMES)]
    max_frames: Annotated[int, Field(ge=3, le=MOST_FRAMES)]
    drop_first_frames: Number
    split_by: Literal["scene", "video"]
    train_share: Share
    val_share: Share
    near_duplicate_hamming: Annotated[int, Field(ge=-1, le=256)]
    filters: ClipFilters

    def broken_rules(self) -> Iterator[str]:
        if self.min_frames > self.max_frames:
            yield f"clip_chunk.min_frames = {self.min_frames}: expected at most {self.max_frames}"
        if (share := self.train_share + self.val_share) > 1 - 1e-9:
            rest = "the rest is the test split"
            yield f"clip_chunk.train_share + val_share = {share:g}: expected less than 1, {rest}"


class FlowSection(Section):
    method: Literal["dis", "rife", "mixed"]
    easing: bool


class Keyframes(Section):
    patch_size: Annotated[Literal[4, 8, 16, 32], BeforeValidator(_integer)]
    channels: Annotated[int, Field(ge=8, le=1024, multiple_of=8)]
    encoder: Literal["linear", "network"]
    frames_without_codes: UpToOne
    spans_per_clip: Annotated[int, Field(ge=0, le=MOST_FRAMES)]


class Previous(Section):
    """With context previous."""

    patch_size: Annotated[Literal[8, 16], BeforeValidator(_integer)]
    channels: Annotated[int, Field(ge=8, le=1024, multiple_of=8)]
    grey: bool


class Vqvae(Section):
    quantizer: Literal["ema", "vq"]
    beta: Weight
    num_embeddings: Annotated[int, Field(ge=2, le=65536)]  # tokens are stored as uint16
    embedding_dim: Size


class Autoencoder(Section):
    architecture: Literal["fast", "thesis"]
    z_channels: Size
    channels: Size
    channels_multiplier: Annotated[list[Size], Field(min_length=1, max_length=8)]
    num_res_blocks: Annotated[int, Field(ge=1, le=100)]
    attention_resolution: Annotated[list[Count], Field(max_length=8)]
    dropout: Probability
    upsampling: Literal["nearest", "bilinear", "transposed"]
    patch_size: Annotated[Literal[1, 2, 4, 8], BeforeValidator(_integer)]

    def broken_rules(self) -> Iterator[str]:
        if (widest := self.channels * max(self.channels_multiplier)) > 8192:
            yield (
                f"vqgan.autoencoder.channels * channels_multiplier = {widest}: expected at most "
                "8192 channels"
            )


class Discriminator(Section):
    num_layers: Annotated[int, Field(ge=1, le=6)]
    filters: Size
    norm: Literal["none", "instance", "batch"]


class AdversarialLoss(Section):
    loss: Literal["hinge", "cross_entropy"]
    factor: Weight
    iter_start: Number
    weight: Weight


class VqganLoss(Section):
    discriminator: AdversarialLoss
    codebook_weight: Weight
    perceptual_weight: Weight
    perceptual_loss: Literal["vgg16", "alexnet", "vgg19", "style", "style_vgg19", "none"]
    perceptual_subset: Number
    mse_weight: Weight
    edge_weight: Weight


class VqganTrainer(Section):
    batch_size: Batch
    accumulation_size: Count
    n_epochs: Count
    augmentation: Literal["none", "crop_flip", "shift_flip"]
    schedule: Literal["cosine", "constant"]
    gen_lr: AboveZero
    disc_lr: AboveZero
    gen_betas: Betas
    disc_betas: Betas
    clip_norm: Positive


class Vqgan(Section):
    context: Literal["none", "keyframes", "previous"]
    keyframes: Keyframes
    previous: Previous
    vqvae: Vqvae
    autoencoder: Autoencoder
    discriminator: Discriminator
    loss: VqganLoss
    trainer: VqganTrainer

    def broken_rules(self) -> Iterator[str]:
        if self.context == "keyframes" and self.vqvae.quantizer != "ema":
            kind = self.vqvae.quantizer
            yield f"vqgan.vqvae.quantizer = {kind}: expected ema with vqgan.context = keyframes"
        if (subset := self.loss.perceptual_subset) > (batch := self.trainer.batch_size):
            yield (
                f"vqgan.loss.perceptual_subset = {subset}: expected at most "
                f"vqgan.trainer.batch_size = {batch}; 0 takes the whole batch"
            )


class Transformer(Section):
    transformer_type: Literal["custom", "plain", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]
    pretrained: Text
    n_layer: Layers
    n_head: Count
    n_embd: Count
    merge: Annotated[Literal[1, 2], BeforeValidator(_integer)]
    dropout: Probability
    remaining_frames_method: Literal["own_embeddings", "concat", "token_type_ids", "none"]

    def broken_rules(self) -> Iterator[str]:
        own_sizes = self.transformer_type in ("custom", "plain")
        if own_sizes and self.n_embd % self.n_head:
            heads = f"transformer.n_head = {self.n_head}"
            yield f"transformer.n_embd = {self.n_embd}: expected a multiple of {heads}"
        if own_sizes and (weights := 12 * self.n_layer * self.n_embd**2) > MOST_WEIGHTS:
            sizes = f"transformer.n_layer = {self.n_layer}, n_embd = {self.n_embd}"
            yield f"{sizes}: {weights:.1g} weights, expected at most {MOST_WEIGHTS:.0g}"
        if self.pretrained and self.transformer_type == "plain":
            yield (
                f"transformer.pretrained = {self.pretrained}: transformer_type = plain has no "
                "published weights, expected one of GPT-2's sizes, or custom"
            )


class Train(Section):
    sequence: Literal["full_clip", "sliding_window"]
    mode: Literal["parallel", "maskgit"]
    n_frames_before: CountOrAll
    batch_method: Literal["padding", "truncation"]
    batch_size: Batch
    accumulation_size: Count
    n_epochs: Count
    warmup_epoch_percentage: UpToOne
    lr_start: UpToOne
    lr_max: AboveZero
    stop_ground_truth_after_epoch: Number
    token_noise: Probability
    perceptual_loss_weight: Weight

    def broken_rules(self) -> Iterator[str]:
        if self.sequence == "sliding_window" and self.mode != "parallel":
            yield (
                f"train.mode = {self.mode}: expected parallel with train.sequence = "
                "sliding_window; set train.sequence to full_clip"
            )
        if self.token_noise and not self.stop_ground_truth_after_epoch:
            yield (
                f"train.token_noise = {self.token_noise:g}: expected "
                "train.stop_ground_truth_after_epoch above 0: noise is in true frames only"
            )
        if self.lr_start > self.lr_max:
            most = f"train.lr_max = {self.lr_max:g}"
            yield f"train.lr_start = {self.lr_start:g}: expected at most {most}"


class Decoding(Section):
    mode: Literal["auto", "parallel", "maskgit"]
    steps: Count
    temperature: Weight
    top_k: Number
    top_p: AboveZero
    min_confidence: UpToOne

    def broken_rules(self) -> Iterator[str]:
        if 0 < self.temperature < 0.01:
            where = f"evaluate.decoding.temperature = {self.temperature:g}"
            yield f"{where}: expected 0 (greedy), or 0.01 and more"


Baseline = Literal[
    "black", "hold_first", "hold_nearest", "cross_fade", "optical_flow", "rife",
    "untrained", "without_codes", "round_trip",
]  # fmt: skip


class Evaluate(Section):
    decoding: Decoding
    baselines: list[Baseline]
    lpips_network: Literal["alexnet", "vgg16", "none"]
    fid_network: Literal["inception", "vgg16", "none"]
    video_metrics: list[Literal["model", Baseline]]
    n_samples: Annotated[int, Field(ge=0, le=100)]
    thesis_metrics: Literal["none", "test", "full"]

    def broken_rules(self) -> Iterator[str]:
        for key in ("baselines", "video_metrics"):
            if len(set(names := getattr(self, key))) < len(names):
                yield f"evaluate.{key} = {names}: expected each name once"
        absent = [n for n in self.video_metrics if n not in ("model", *self.baselines)]
        if absent:
            yield (
                f"evaluate.video_metrics: expected model and names from evaluate.baselines, and "
                f"{', '.join(absent)} not among {self.baselines}"
            )
        if self.n_samples == 1:
            yield "evaluate.n_samples = 1: expected 0, or at least 2, whose distance is measured"


class Tracking(Section):
    enabled: bool


class Engine(Section):
    kind: Literal["local", "ray"]
    workers: Parallel
    checkpoint_interval: Weight


class Params(Section):
    """All of `params.yaml`."""

    base: Base
    source: Source
    sample_episodes: SampleEpisodes
    ingest: Ingest
    scene_split: SceneSplit
    frame_subsample: FrameSubsample
    clip_chunk: ClipChunk
    flow: FlowSection
    vqgan: Vqgan
    transformer: Transformer
    train: Train
    evaluate: Evaluate
    tracking: Tracking
    engine: Engine

    def broken_rules(self) -> Iterator[str]:
        yield from self._broken_frame_rules()
        gpt, train = self.transformer, self.train
        method = gpt.remaining_frames_method
        if method == "concat" and train.sequence == "full_clip":
            yield (
                "transformer.remaining_frames_method = concat: expected train.sequence = "
                "sliding_window, whose sequences have one number of remaining frames each"
            )
        clips, rows = self.clip_chunk, self.vqgan.vqvae.num_embeddings
        longest = max(clips.max_frames, 2 * clips.min_frames - 1)
        if method in ("concat", "token_type_ids") and rows < longest:
            yield (
                f"vqgan.vqvae.num_embeddings = {rows}: expected at least {longest}, the frames of "
                f"the longest clip, with transformer.remaining_frames_method = {method}"
            )
        if train.perceptual_loss_weight and self.vqgan.context != "none":
            yield (
                f"train.perceptual_loss_weight = {train.perceptual_loss_weight:g}: expected 0 with "
                f"vqgan.context = {self.vqgan.context}, whose tokens alone make no picture"
            )
        elif train.perceptual_loss_weight and self.vqgan.loss.perceptual_loss == "none":
            yield (
                f"train.perceptual_loss_weight = {train.perceptual_loss_weight:g}: expected 0 with "
                "vqgan.loss.perceptual_loss = none, which it weighs"
            )
        yield from self._broken_previous_rules()
        if (mode := self.evaluate.decoding.mode) not in ("auto", "parallel", train.mode):
            trained = f"train.mode to be {mode}, not {train.mode}"
            yield f"evaluate.decoding.mode = {mode}: expected {trained}"

    def _broken_previous_rules(self) -> Iterator[str]:
        """Of context previous, and of sequences that are drawn anew."""
        train, ingest, fresh = self.train, self.ingest, self.source.moving_mnist.epoch_sequences
        previous = self.vqgan.context == "previous"
        if previous and train.sequence != "full_clip":
            key = f"train.sequence = {train.sequence}"
            yield f"{key}: expected full_clip with vqgan.context = previous"
        if previous and train.stop_ground_truth_after_epoch < train.n_epochs:
            yield (
                f"train.stop_ground_truth_after_epoch = {train.stop_ground_truth_after_epoch}: "
                f"expected train.n_epochs = {train.n_epochs} or more with vqgan.context = previous"
            )
        if previous and train.token_noise:
            key = f"train.token_noise = {train.token_noise:g}"
            yield f"{key}: expected 0 with vqgan.context = previous"
        if previous and train.batch_method != "padding":
            key = f"train.batch_method = {train.batch_method}"
            yield f"{key}: expected padding with vqgan.context = previous"
        if previous and self.vqgan.trainer.augmentation != "none":
            key = f"vqgan.trainer.augmentation = {self.vqgan.trainer.augmentation}"
            yield f"{key}: expected none with vqgan.context = previous"
        if previous and train.n_frames_before == "all":
            yield "train.n_frames_before = all: expected a number with vqgan.context = previous"
        elif previous and self.clip_chunk.min_frames < train.n_frames_before + 3:
            key = f"clip_chunk.min_frames = {self.clip_chunk.min_frames}"
            least = f"train.n_frames_before + 3 = {train.n_frames_before + 3}"
            yield f"{key}: expected {least} or more with vqgan.context = previous"
        if self.source.kind != "moving_mnist" or not fresh:
            return
        key = f"source.moving_mnist.epoch_sequences = {fresh}"
        if not previous:
            yield f"{key}: expected vqgan.context = previous, or 0"
        if (ingest.height, ingest.width) != (CANVAS, CANVAS):
            yield f"{key}: expected ingest.height and ingest.width of {CANVAS}, or 0"

    def _broken_frame_rules(self) -> Iterator[str]:
        """Frames that the tokens do not cover, or that are too small."""
        ingest, vqgan, sizes = self.ingest, self.vqgan, self.vqgan.autoencoder
        levels = len(sizes.channels_multiplier)
        token = sizes.patch_size * 2 ** (levels - 1)  # pixels a side
        if vqgan.context == "keyframes":
            token = vqgan.keyframes.patch_size
            stride = max(token, KEYFRAME_STRIDE)
            reason = f"vqgan.keyframes.patch_size = {vqgan.keyframes.patch_size}"
        elif vqgan.context == "previous":
            stride = token = vqgan.previous.patch_size
            reason = f"vqgan.previous.patch_size = {stride}"
        else:
            stride = token
            reason = f"vqgan.autoencoder.patch_size = {sizes.patch_size}, and {levels} levels"
        for side in ("height", "width"):
            if (value := getattr(ingest, side)) % stride:
                yield f"ingest.{side} = {value}: expected a multiple of {stride} ({reason})"
            elif value % (token * self.transformer.merge):
                multiple = token * self.transformer.merge
                merge = f"transformer.merge = {self.transformer.merge} tokens of {token} pixels"
                yield f"ingest.{side} = {value}: expected a multiple of {multiple} ({merge})"
        longer = max(ingest.height, ingest.width)
        sides = [longer // sizes.patch_size // 2**level for level in range(levels)]
        for side in sizes.attention_resolution:
            if side not in sides:
                key = "vqgan.autoencoder.attention_resolution"
                yield f"{key} = {side}: expected one of {sides}, the sides of the feature maps"
        shorter = min(ingest.height, ingest.width)
        layers = vqgan.discriminator.num_layers
        if vqgan.loss.discriminator.factor and shorter < 2 ** (layers + 1):
            least = f"frames of at least {2 ** (layers + 1)} pixels a side, not {shorter}"
            yield f"vqgan.discriminator.num_layers = {layers}: expected {least}"
        pixels = f"expected frames of at least {ALEXNET_SIDE} pixels a side, not {shorter}"
        if vqgan.loss.perceptual_loss == "alexnet" and shorter < ALEXNET_SIDE:
            yield f"vqgan.loss.perceptual_loss = alexnet: {pixels}; set it to none"
        if self.evaluate.lpips_network == "alexnet" and shorter < ALEXNET_SIDE:
            yield f"evaluate.lpips_network = alexnet: {pixels}; set it to vgg16"


def read_yaml(path: Path = PARAMS_FILE, loader: YAML | None = None) -> dict:
    """The mapping in a YAML 1.2 file (the dialect that DVC reads and writes), plain by default."""
    loader = loader or YAML(typ="safe", pure=True)
    loader.Composer = _WrittenOut
    try:
        if (size := path.stat().st_size) > MOST_BYTES:  # the parser's time grows with its square
            raise UserError(f"{path} has {size} bytes; expected at most {MOST_BYTES}")
        content = loader.load(read_text(path))
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing; run this from the root of the project, where params.yaml lies"
        ) from None
    except (YAMLError, ValueError, RecursionError) as error:  # also a number of 5,000 digits
        reason = " ".join(str(error).partition("To suppress")[0].split())
        reason = reason.replace('in "<unicode string>", ', "in ")
        raise UserError(f"{path} is no valid YAML: {reason}; mend it there") from None
    if not isinstance(content, dict):
        kind = "a list" if isinstance(content, list) else "a value" if content else "nothing"
        raise UserError(f"{path} holds {kind}, expected sections with keys")
    return content


class _WrittenOut(Composer):
    """Refuses what refers to itself, or grows from line to line: it has no end."""

    def compose_node(self, parent: object, index: object) -> object:
        if self.parser.check_event(AliasEvent):
            node = self.anchors.get(self.parser.peek_event().anchor)
            if isinstance(node, CollectionNode):
                raise YAMLError("a section or a list is repeated by an anchor; write it out")
        return super().compose_node(parent, index)


def load(path: Path = PARAMS_FILE) -> Params:
    """Reads and checks all parameters; raises one UserError that names every mistake."""
    return parse(read_yaml(path), path)


def parse(content: dict, path: Path = PARAMS_FILE) -> Params:
    """Checks a mapping as `load` does; `path` is only named in the error.

    What two sections contradict each other in is named once each section is fine by itself.
    """
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        items = error.errors()
    missing = [_dotted(item["loc"]) for item in items if item["type"] == "missing"]
    mistakes = [line for item in items for line in _describe(item, missing)]
    count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
    if len(mistakes) > MOST_MISTAKES:
        mistakes[MOST_MISTAKES:] = [f"and {len(mistakes) - MOST_MISTAKES} more"]
    raise UserError(f"{count} in {path}:\n" + "\n".join(f"  {line}" for line in mistakes))


def _dotted(place: tuple) -> str:
    return ".".join(str(part) for part in place)


def _describe(item: dict, missing: list[str]) -> list[str]:
    """missing: keys, of which an unknown one may be a misspelling."""
    key = _dotted(item["loc"])
    short = reprlib.Repr()
    short.maxstring = short.maxother = 100
    shown = short.repr(item["input"])
    match item["type"]:
        case "broken_rules":
            return item["msg"].splitlines()
        case "extra_forbidden":
            near = difflib.get_close_matches(key, missing, 1, 0.75)
            near = near or difflib.get_close_matches(key, _keys(Params), 1, 0.75)
            remedy = f"did you mean {near[0]}?" if near else "remove it or correct its spelling"
            if key in near:
                remedy = "write each part of its name in a section of its own"
            return [f"{key[:100]}: unknown key; {remedy}".replace("\n", " ")]
        case "missing":
            return [f"{key}: missing; copy it from the project's params.yaml"]
        case "string_pattern_mismatch":
            return [f"{key} = {shown}: expected text without a zero byte"]
        case "invalid_key":
            return [f"{key}: expected the name of a key, text"]
        case "model_type":
            return [f"{key} = {shown}: expected keys and values"]
    expected = item["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    expected = expected.removeprefix("String should have ")
    return [f"{key} = {shown}: expected {expected}"]


def _keys(section: type[Section], prefix: str = "") -> list[str]:
    """The dotted names of a section's keys, with those of its sections."""
    names = []
    for name, field in section.model_fields.items():
        names.append(f"{prefix}{name}")
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            names += _keys(field.annotation, f"{prefix}{name}.")
    return names
