"""Presets paper_*: the thesis' text, value by value, and networks of the sizes that it names."""

from pathlib import Path

import pytest
import torch

from pipeline import config, io
from pipeline.commands import presets
from pipeline.models.gpt.model import FrameGpt, GptConfig
from pipeline.models.vqgan.discriminator import Discriminator
from pipeline.models.vqgan.model import Tokenizer
from pipeline.training import adversarial

ROOT = Path(__file__).parents[1]
KNY, MNIST = "paper_kny", "paper_moving_mnist"

# Key, value (or the values for the anime and for Moving MNIST; None: not set there), section of the
# text, and what the text says there in our words.
THESIS = [
    ("source.kind", ("videos", "moving_mnist"), "3.1", "two data sets"),
    ("source.moving_mnist.train_sequences", (None, 9000), "3.1.2, 4", "10,000, 90 % train and val"),
    ("source.moving_mnist.test_sequences", (None, 1000), "3.1.2, 4", "10,000, 10 % test"),
    ("ingest.height", 64, "3.1.1", "both data sets"),
    ("ingest.width", (128, 64), "3.1.1, 3.1.2", "a power of two; 64x64 digits"),
    ("ingest.fit", ("squeeze", None), "3.1.1", "60x104 would keep the ratio"),
    ("frame_subsample.image_step", (5, 1), "3.1.1", "one frame in five; all 200,000"),
    ("frame_subsample.clip_frames", "all", "3.1.2", "clips keep repeated frames"),
    ("scene_split.detector", ("content", None), "3.1.2, code 1", "detect-content"),
    ("scene_split.threshold", (15.0, None), "3.1.2, code 1", "--threshold"),
    ("scene_split.min_scene_seconds", (0.5, None), "3.1.2, code 1", "shorter ones are dropped"),
    ("clip_chunk.min_frames", (15, 20), "3.1.2", "table 1; sequences stay whole"),
    ("clip_chunk.max_frames", (25, 20), "3.1.2", "table 1; sequences stay whole"),
    ("clip_chunk.drop_first_frames", (2, 0), "3.1.2, figure 16", "of each detected scene"),
    ("clip_chunk.train_share", 0.8, "4", "80 %"),
    ("clip_chunk.val_share", 0.1, "4", "10 %, and 10 % test"),
    ("vqgan.context", "none", "3.2", "tokens of whole frames"),
    ("vqgan.vqvae.quantizer", "vq", "2.3, eq. 5", "codes learn by gradient"),
    ("vqgan.vqvae.beta", 0.25, "C.1", ""),
    ("vqgan.vqvae.num_embeddings", 50257, "C.1", "GPT-2's vocabulary"),
    ("vqgan.vqvae.embedding_dim", 128, "C.1", ""),
    ("vqgan.autoencoder.architecture", "thesis", "3.2", "average pooling, tanh"),
    ("vqgan.autoencoder.patch_size", 1, "3.2, table 2", "the first level has all pixels"),
    ("vqgan.autoencoder.z_channels", 512, "C.1", ""),
    ("vqgan.autoencoder.channels", 32, "C.1", ""),
    ("vqgan.autoencoder.channels_multiplier", [2, 4, 8, 8], "C.1", ""),
    ("vqgan.autoencoder.num_res_blocks", 1, "C.1", ""),
    ("vqgan.autoencoder.attention_resolution", [16], "C.1", "side of the feature map: table 2"),
    ("vqgan.autoencoder.dropout", 0.0, "C.1", ""),
    ("vqgan.discriminator.num_layers", 3, "C.1", ""),
    ("vqgan.discriminator.filters", 64, "C.1", ""),
    ("vqgan.loss.discriminator.loss", "hinge", "C.1", ""),
    ("vqgan.loss.discriminator.factor", (1.0, 0.0), "C.1, 4.1.1", "not used for the digits"),
    ("vqgan.loss.discriminator.iter_start", 500_000, "C.1", ""),
    ("vqgan.loss.discriminator.weight", 0.8, "C.1", ""),
    ("vqgan.loss.codebook_weight", 1.0, "C.1", ""),
    ("vqgan.loss.perceptual_weight", 4.0, "C.1", ""),
    ("vqgan.loss.perceptual_loss", "vgg19", "C.1, C.2", "of both trainings"),
    ("vqgan.loss.mse_weight", 0.0, "3.2", "absolute and perceptual error only"),
    ("vqgan.loss.edge_weight", 0.0, "3.2", "absolute and perceptual error only"),
    ("vqgan.trainer.batch_size", 64, "C.1", ""),
    ("vqgan.trainer.n_epochs", 1000, "C.1", ""),
    ("vqgan.trainer.augmentation", ("crop_flip", "none"), "3.1.1", "jitter of the anime alone"),
    ("vqgan.trainer.gen_lr", 3e-5, "C.1", ""),
    ("vqgan.trainer.disc_lr", 5e-5, "C.1", ""),
    ("vqgan.trainer.gen_betas", [0.5, 0.9], "C.1", ""),
    ("vqgan.trainer.disc_betas", [0.5, 0.9], "C.1", ""),
    ("vqgan.trainer.clip_norm", 1.0, "C.1", "of both networks"),
    ("transformer.transformer_type", "gpt2-medium", "3.3, 3.3.4, C.2", "the largest that fitted"),
    ("transformer.pretrained", "gpt2-medium", "3.3, figure 26", "learns faster"),
    ("transformer.remaining_frames_method", "own_embeddings", "3.3.2, 3.3.4, C.2", ""),
    ("train.sequence", "sliding_window", "3.3.1, figure 27", "one pass a frame"),
    ("train.mode", "parallel", "3.3.1, eq. 11", "a frame in one pass"),
    ("train.n_frames_before", 1, "3.3.4, C.2", ""),
    ("train.batch_method", "truncation", "3.1.2, 3.3.4", "faster than padding"),
    ("train.batch_size", 64, "C.2", ""),
    ("train.accumulation_size", 1, "C.2", ""),
    ("train.n_epochs", 500, "C.2", ""),
    ("train.warmup_epoch_percentage", 0.15, "C.2", ""),
    ("train.lr_start", 5e-6, "C.2", ""),
    ("train.lr_max", 1e-4, "C.2", ""),
    ("train.stop_ground_truth_after_epoch", 200, "C.2", ""),
    ("train.perceptual_loss_weight", 1.0, "C.2", ""),
    ("evaluate.decoding.mode", "parallel", "3.3.1, eq. 11", "a frame in one pass"),
    ("evaluate.fid_network", "inception", "4", "FID"),
    ("evaluate.thesis_metrics", "full", "4", "five repetitions, train and test"),
]


@pytest.mark.parametrize("name", [KNY, MNIST])
def test_a_preset_has_the_values_of_the_text(name):
    here = io.flatten(presets.overlay(name, ROOT / "presets"))
    expected = {}
    for key, value, _, _ in THESIS:
        value = value[name == MNIST] if isinstance(value, tuple) else value
        if value is not None:
            expected[key] = value
    assert {key: here.get(key) for key in expected} == expected
    unsaid = here.keys() - expected.keys()
    lines = (ROOT / f"presets/{name}.yaml").read_text().splitlines()
    for key in unsaid:  # a choice of ours: its line says why
        leaf = f"{key.rpartition('.')[2]}:"
        assert any(line.strip().startswith(leaf) and "#" in line for line in lines), key


def test_delta_is_the_one_of_equation_7():
    assert adversarial.DELTA == 1e-6


@pytest.fixture(scope="module", params=[KNY, MNIST])
def paper(request) -> config.Params:
    content = config.read_yaml(ROOT / "params.yaml")
    return config.parse(presets.merged(content, presets.overlay(request.param, ROOT / "presets")))


def test_its_networks_have_the_thesis_shapes(paper):
    """Built and run without memory, on the meta device."""
    height, width = paper.ingest.height, paper.ingest.width
    with torch.device("meta"):
        images = torch.zeros(2, 3, height, width)
        tokenizer = Tokenizer(paper.vqgan, height, width)
        features = tokenizer.features(images)
        assert features.shape == (2, 128, height // 8, width // 8)
        assert tokenizer.codebook.shape == (50257, 128)
        assert tokenizer.decode_features(features).shape == images.shape
        logits = Discriminator(paper.vqgan.discriminator)(images)
        assert logits.shape == (2, 1, height // 8, width // 8), "table 3"
        gpt = FrameGpt(GptConfig.from_params(paper, tokenizer.grid))
    assert len(gpt.gpt.model.h) == 24 and gpt.table.shape == (50257, 1024), "table 5"
    assert len(gpt.gpt.model.wpe.weight) == 1024, "the published positions are enough"
    own = sum(p.numel() for p in gpt.gpt.parameters())
    assert own == 354_823_168, "GPT-2 medium as published; the thesis calls it 345 million"
