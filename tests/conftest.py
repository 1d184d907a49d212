"""What tests of networks share: tiny settings, little moving pictures, shards, random models."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_settings import TINY, small_params

from pipeline import config, io
from pipeline.commands import presets


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny tensors gain nothing from threads; torch is not loaded for tests that do without it."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> Callable[[dict | None], config.Params]:
    """params.yaml made tiny, with dotted keys changed: `tiny({"train.n_epochs": 3})`."""
    return lambda changes=None: small_params(TINY, changes)


@pytest.fixture(scope="session")
def thesis() -> config.Params:
    """params.yaml with the thesis' configuration of the tokenizer."""
    root = Path(__file__).parents[1]
    content = config.read_yaml(root / "params.yaml")
    return config.parse(presets.merged(content, presets.overlay("paper_kny", root / "presets")))


@pytest.fixture(scope="session")
def moving() -> Callable:
    """A clip uint8 `n H W 3`: a bright square goes over a coloured slope, other at each `seed`."""

    def make(n_frames: int, seed: int = 0, height: int = 16, width: int = 32) -> "object":
        import torch

        random = np.random.default_rng(seed)
        low, high = random.integers(0, 120, 3), random.integers(120, 256, 3)
        slope = np.linspace(0, 1, width)[None, :, None] * np.linspace(0.5, 1, height)[:, None, None]
        clip = np.repeat((low + slope * (high - low))[None], n_frames, 0)
        side, top = height // 3, random.integers(0, height - height // 3)
        for i in range(n_frames):
            left = round((width - side) * i / max(1, n_frames - 1))
            clip[i, top : top + side, left : left + side] = 255 - low
        return torch.from_numpy(clip.round().astype(np.uint8))

    return make


@pytest.fixture(scope="session")
def write_shards(moving) -> Callable:
    """Shards of moving clips, and their frames as pictures; the folder and each clip's motion."""
    from pipeline.data.shard_writer import clip_schema, image_schema, open_shard

    lengths = {"train": (7, 6, 7, 5), "val": (6, 5), "test": (7, 5, 6, 3)}

    def write(folder: Path, height: int = 16, width: int = 32) -> dict[str, float]:
        folder.mkdir(parents=True, exist_ok=True)
        motion = {}
        for number, split in enumerate(io.SPLITS):
            size = height, width
            with (
                open_shard(folder / f"clips-{split}-00000.arrow", clip_schema(*size)) as add_clip,
                open_shard(
                    folder / f"images-{split}-00000.arrow", image_schema(*size)
                ) as add_image,
            ):
                for k, n in enumerate(lengths[split]):
                    clip = moving(n, 10 * number + k, *size).numpy()
                    clip_id = f"{split}-{k:02d}"
                    add_clip({"clip_id": clip_id, "n_frames": n, "images": clip.tobytes()})
                    for i in range(0, n, 2):
                        add_image({"video_id": clip_id, "frame": i, "image": clip[i].tobytes()})
                    motion[clip_id] = float(k)
        return motion

    return write


@pytest.fixture(scope="session")
def write_tokens() -> Callable:
    """Clips as token ids (`n N` each) to data that the transformer is trained on.

    With C channels, the context features of a token of id k are k, k+1, ..., k+C-1.
    """

    def write(folder: Path, clips: dict[str, list], channels: int = 0) -> Path:
        for split, split_clips in clips.items():
            rows = []
            for k, clip in enumerate(split_clips):
                ids = np.asarray(clip, np.uint16)
                features = ids[..., None] + np.arange(channels)
                row = {"clip_id": f"{split}-{k:02d}", "flipped": False, "reversed": False}
                row |= {"n_frames": len(ids), "tokens": ids.flatten()}
                rows.append(row | {"features": features.astype(np.float16).tobytes()})
            io.write_table(rows, io.TOKENS, folder / f"{split}.parquet")
        return folder

    return write


@pytest.fixture(scope="session")
def untrained(moving) -> Callable:
    """Random networks of the settings; the tokenizer started from clips, so it sees a little."""
    import previous_settings
    import torch

    from pipeline import frames
    from pipeline.inference.inbetweener import InBetweener
    from pipeline.models.flow import FlowEstimator, make_context
    from pipeline.models.gpt.model import FrameGpt, GptConfig
    from pipeline.models.vqgan.keyframes import KeyframeTokenizer
    from pipeline.models.vqgan.model import Tokenizer

    def start_keyframes(tokenizer: KeyframeTokenizer, clips: list, method: str) -> "torch.Tensor":
        """Codes from the clips' differences; gives the context features of their frames."""
        estimator, differences, features = FlowEstimator(method), [], []
        for clip in clips:
            images = frames.to_float(clip)
            ends = [images[[k]].expand(len(clip), -1, -1, -1) for k in (0, -1)]
            time = torch.linspace(0, 1, len(clip)).view(-1, 1, 1, 1)
            flow = estimator(clip[0].numpy(), clip[-1].numpy())
            context = make_context(*ends, flow, time, torch.tensor(1.0))
            differences.append(images - context.eased)
            features.append(tokenizer.context_features(context))
        tokenizer.init_from_data(torch.cat(differences), torch.Generator().manual_seed(0))
        return torch.cat(features).flatten(0, 1)

    @torch.no_grad()
    def make(settings: config.Params) -> InBetweener:
        torch.manual_seed(settings.base.seed)
        size = settings.ingest.height, settings.ingest.width
        clips = [moving(5, seed, *size) for seed in range(6)]
        if settings.vqgan.context == "keyframes":
            tokenizer = KeyframeTokenizer(settings.vqgan, *size, settings.flow.method).eval()
            features = start_keyframes(tokenizer, clips, settings.flow.method)
            gpt = FrameGpt(
                GptConfig.from_params(settings, tokenizer.grid, tokenizer.context_channels)
            ).eval()
            gpt.fit_context(features)
        elif settings.vqgan.context == "previous":
            tokenizer, (images,) = previous_settings.tokenizer(), previous_settings.floats(1)
            gpt = FrameGpt(
                GptConfig.from_params(settings, tokenizer.grid, tokenizer.context_channels)
            ).eval()
            last = images[-1:].expand(len(images), -1, -1, -1)
            remaining = torch.full((len(images),), 19)
            gpt.fit_context(tokenizer.context_features(images, last, remaining).flatten(0, 1))
        else:
            tokenizer = Tokenizer(settings.vqgan, *size).eval()
            images = frames.to_float(torch.cat(clips))
            tokenizer.linear_skip.start(images)
            vectors = tokenizer.features(images).movedim(1, -1).flatten(0, 2)
            tokenizer.quantizer.init_from_data(vectors, torch.Generator().manual_seed(0))
            gpt = FrameGpt(GptConfig.from_params(settings, tokenizer.grid)).eval()
        gpt.init_from_codebook(tokenizer.codebook)
        precision = settings.base.precision
        cpu, method = torch.device("cpu"), settings.flow.method
        return InBetweener(tokenizer, gpt, settings.ingest, cpu, precision, method)

    return make


@pytest.fixture(scope="session")
def saved_models(tiny, untrained, tmp_path_factory) -> Callable[..., Path]:
    """Writes random networks as the stages leave them in models/, of the settings with changes."""
    written: dict[str, Path] = {}  # those of equal settings are copied

    def save(folder: Path, changes: dict | config.Params | None = None) -> Path:
        import torch

        from pipeline.models.checkpoints import load_tokenizer, save_tokenizer
        from pipeline.models.flow import Easing
        from pipeline.models.gpt.checkpoint import save_gpt

        settings = changes if isinstance(changes, config.Params) else tiny(changes)
        if (key := settings.model_dump_json()) not in written:
            models, model = tmp_path_factory.mktemp("models"), untrained(settings)
            save_tokenizer(model.tokenizer, settings, models / "vqgan", Easing(1.0))
            weights = load_tokenizer(models / "vqgan", torch.device("cpu")).sha256
            save_gpt(model.gpt, weights, models / "gpt2")
            written[key] = models
        return shutil.copytree(written[key], folder, dirs_exist_ok=True)

    return save


@pytest.fixture(scope="session")
def published_gpt2() -> Callable[..., Path]:
    """Writes a random GPT-2 of 2 layers, 2 heads, width 16 as `save_pretrained` writes it."""

    def save(folder: Path, vocabulary: int, rows: int = 1024) -> Path:
        import torch

        from pipeline.runtime import repair_torchvision

        repair_torchvision()
        from transformers import GPT2Config, GPT2Model

        torch.manual_seed(3)
        sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": rows}
        tokens = {"vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": None}
        GPT2Model(GPT2Config(**sizes, **tokens)).save_pretrained(folder)
        return folder

    return save
