"""Parameters: what is read, what is refused, and that every mistake is named at once."""

import copy
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline import config, io
from pipeline.errors import UserError

FILE = Path(__file__).resolve().parents[1] / "params.yaml"


# What the tests below count on, whatever defaults the project is tuned to.
SIZES = {
    "vqgan.context": "none",
    "ingest.height": 64,
    "ingest.width": 128,
    "clip_chunk.min_frames": 15,
    "clip_chunk.max_frames": 25,
    "clip_chunk.train_share": 0.8,
    "clip_chunk.val_share": 0.1,
    "vqgan.loss.perceptual_loss": "none",
    "vqgan.patch_size": 16,
    "vqgan.autoencoder.channels_multiplier": [1, 2, 4, 4],
    "vqgan.autoencoder.patch_size": 1,
    "vqgan.autoencoder.attention_resolution": [],
    "transformer.transformer_type": "custom",
    "transformer.n_head": 4,
    "transformer.n_embd": 192,
}


@pytest.fixture
def content() -> dict:
    return _with(config.read_yaml(FILE), SIZES)


def _with(content: dict, changes: dict) -> dict:
    """A copy with dotted keys set; None deletes the key."""
    changed = copy.deepcopy(content)
    for dotted, value in changes.items():
        *sections, key = dotted.split(".")
        place = changed
        for section in sections:
            place = place[section]
        if value is None:
            del place[key]
        else:
            place[key] = value
    return changed


def _mistakes(content: dict, changes: dict) -> list[str]:
    with pytest.raises(UserError) as caught:
        config.parse(_with(content, changes))
    return str(caught.value).splitlines()


def test_the_projects_parameters_are_valid():
    config.load(FILE)


def test_sections_compute_no_result():
    """No stage depends on config/: an edit there would change results behind DVC's back."""
    classes = [*vars(config.sections).values(), config.Params]
    sections = [x for x in classes if isinstance(x, type) and issubclass(x, config.Section)]
    computed = {n for x in sections for n, v in vars(x).items() if isinstance(v, property)}
    assert computed == {"frame_size"}, "values of keys as they are"


def test_every_section_is_commented():
    lines = FILE.read_text("utf-8").splitlines()
    for name in config.Params.model_fields:
        (start,) = [number for number, line in enumerate(lines) if line == f"{name}:"]
        following = [n for n in range(start + 1, len(lines)) if lines[n][:1].isalpha()]
        end = following[0] if following else len(lines)
        assert lines[start - 1].startswith("#") or any("#" in line for line in lines[start:end])


def test_loaded_parameters_are_frozen():
    settings = config.load(FILE)
    with pytest.raises(ValidationError):
        settings.train.n_epochs = 3


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1.0e-4", 1e-4), ("0.0001", 1e-4), ("1E-4", 1e-4), ("1", 1.0)],
)
def test_numbers_may_be_written_as_dvc_writes_them(tmp_path, text, value):
    changed = re.sub(r"lr_max: \S+", f"lr_max: {text}", FILE.read_text("utf-8"))
    changed = re.sub(r"lr_start: \S+", "lr_start: 0.0", changed)
    (tmp_path / "params.yaml").write_text(changed)
    assert config.load(tmp_path / "params.yaml").train.lr_max == value


@pytest.mark.parametrize(
    ("changes", "mistake"),
    [
        ({"train.lr_max": "abc"}, "train.lr_max = 'abc': expected number"),
        ({"train.n_epoch": 3}, "train.n_epoch: unknown key"),
        ({"train.n_epochs": None}, "train.n_epochs: missing"),
        ({"base.compile": False}, "base.compile: unknown key; remove it or correct its spelling"),
        ({"tracking.experiment": "a"}, "tracking.experiment: unknown key; remove it or"),
        ({"flow": [1]}, "flow = [1]: expected keys and values"),
        ({"base.launcher": "python; ls"}, "base.launcher = 'python; ls': expected python, or"),
        ({"base.launcher": "torchrun $(ls)"}, "base.launcher = 'torchrun $(ls)': expected python,"),
        ({"base.launcher": "torchrun evil.py"}, "base.launcher = 'torchrun evil.py': expected"),
        ({"base.launcher": "torchrun --standalone evil.py"}, "evil.py': expected python, or"),
        ({"base.launcher": "torchrun --no-python ls"}, "ls': expected python, or"),
        ({"base.launcher": "torchrun --nnodes -m evil"}, "evil': expected python, or"),
        ({"base.launcher": f"torchrun --nnodes={'a' * 10**5}!"}, "expected python, or"),
        ({"source.path": "a\0"}, "source.path = 'a\\x00': expected text without a zero byte"),
        ({"source.path": "a" * 5000}, "expected at most 4096 characters"),
        ({"train": None}, "train: missing"),
        ({"train.n_epochs": 2.5}, "train.n_epochs = 2.5: expected"),
        ({"train.n_epochs": "3"}, "train.n_epochs = '3': expected integer"),
        ({"train.n_epochs": True}, "train.n_epochs = True: expected integer"),
        ({"train.lr_max": float("nan")}, "train.lr_max = nan: expected"),
        (
            {"train.n_frames_before": 0},
            "train.n_frames_before = 0: expected integer from 1 to 1000, or",
        ),
        ({"train.n_frames_before": "8"}, "train.n_frames_before = '8': expected integer from 1"),
        ({"base.device": "auto"}, "base.device = 'auto': expected cpu, cuda or cuda:N"),
        ({"ingest.fit": "stretch"}, "ingest.fit = 'stretch': expected 'squeeze', 'crop' or 'pad'"),
        ({"clip_chunk.min_frames": 2}, "clip_chunk.min_frames = 2: expected greater than or equal"),
        ({"vqgan.vqvae.num_embeddings": 65537}, "vqgan.vqvae.num_embeddings = 65537: expected"),
        ({"evaluate.baselines": ["raft"]}, "evaluate.baselines.0 = 'raft': expected 'black'"),
        (
            {"evaluate.thesis_metrics": "train"},
            "evaluate.thesis_metrics = 'train': expected 'none'",
        ),
        ({"vqgan.autoencoder.channels_multiplier": []}, "channels_multiplier = []: "),
        ({"vqgan.autoencoder.channels_multiplier": [1, 0]}, "channels_multiplier.1 = 0: expected"),
    ],
)
def test_a_mistake_is_named_with_key_value_and_expectation(content, changes, mistake):
    first, *named = _mistakes(content, changes)
    assert first == "1 mistake in params.yaml:"
    assert len(named) == 1 and mistake in named[0]


@pytest.mark.parametrize(
    ("changes", "mistake"),
    [
        ({"clip_chunk.min_frames": 26}, "clip_chunk.min_frames = 26: expected at most"),
        (
            {"train.sequence": "sliding_window", "train.mode": "maskgit"},
            "train.mode = maskgit: expected parallel with train.sequence = sliding_window",
        ),
        (
            {"transformer.remaining_frames_method": "concat"},
            "remaining_frames_method = concat: expected train.sequence = sliding_window",
        ),
        (
            {
                "transformer.remaining_frames_method": "token_type_ids",
                "vqgan.vqvae.num_embeddings": 20,
            },
            "vqgan.vqvae.num_embeddings = 20: expected at least",
        ),
        (
            {"transformer.transformer_type": "plain", "transformer.pretrained": "gpt2"},
            "transformer.pretrained = gpt2: transformer_type = plain has no published weights",
        ),
        (
            {"train.token_noise": 0.5, "train.stop_ground_truth_after_epoch": 0},
            "train.token_noise = 0.5: expected train.stop_ground_truth_after_epoch above 0",
        ),
        (
            {"evaluate.decoding.mode": "maskgit"},
            "evaluate.decoding.mode = maskgit: expected train.mode to be maskgit, not parallel",
        ),
        ({"clip_chunk.train_share": 0.9}, "clip_chunk.train_share + val_share = 1: expected less"),
        ({"ingest.height": 60}, "ingest.height = 60: expected a multiple of 8"),
        ({"ingest.width": 130}, "ingest.width = 130: expected a multiple of 8"),
        (
            {"vqgan.context": "keyframes", "ingest.height": 72},
            "ingest.height = 72: expected a multiple of 16.*patch_size = 16",
        ),
        (
            {"vqgan.context": "keyframes", "vqgan.patch_size": 4, "ingest.width": 136},
            "ingest.width = 136: expected a multiple of 16.*patch_size = 4",
        ),
        (
            {"vqgan.context": "keyframes", "vqgan.patch_size": 32, "ingest.height": 80},
            "ingest.height = 80: expected a multiple of 32.*patch_size = 32",
        ),
        (
            {"vqgan.context": "keyframes", "vqgan.vqvae.quantizer": "vq"},
            "vqgan.vqvae.quantizer = vq: expected ema with vqgan.context = keyframes",
        ),
        (
            {"vqgan.context": "keyframes", "train.perceptual_loss_weight": 1.0},
            "train.perceptual_loss_weight = 1: expected 0 with vqgan.context = keyframes",
        ),
        (
            {"train.perceptual_loss_weight": 1.0},
            "train.perceptual_loss_weight = 1: expected 0 with vqgan.loss.perceptual_loss = none",
        ),
        ({"vqgan.autoencoder.attention_resolution": [20]}, "attention_resolution = 20: expected"),
        (
            {"transformer.n_embd": 190},
            "n_embd = 190: expected a multiple of transformer.n_head = 4",
        ),
        ({"train.lr_start": 0.1}, "train.lr_start = 0.1: expected at most train.lr_max"),
        (
            {"evaluate.baselines": ["black"], "evaluate.video_metrics": ["model", "rife"]},
            "rife not among ['black']",
        ),
        (
            {"evaluate.baselines": ["black", "black"], "evaluate.video_metrics": []},
            "each name once",
        ),
        ({"evaluate.n_samples": 1}, "evaluate.n_samples = 1: expected 0, or at least 2"),
        (
            {"ingest.height": 16, "vqgan.loss.perceptual_loss": "none"},
            "evaluate.lpips_network = alexnet: expected frames of at least 31 pixels a side",
        ),
        (
            {
                "ingest.height": 16,
                "vqgan.loss.perceptual_loss": "alexnet",
                "evaluate.lpips_network": "none",
            },
            "vqgan.loss.perceptual_loss = alexnet: expected frames of at least 31 pixels a side",
        ),
        (
            {
                "ingest.height": 16,
                "evaluate.lpips_network": "none",
                "vqgan.discriminator.num_layers": 4,
                "vqgan.loss.discriminator.factor": 1.0,
            },
            "vqgan.discriminator.num_layers = 4: expected frames of at least 32 pixels a side",
        ),
        (
            {"transformer.n_layer": 1000, "transformer.n_embd": 4096},
            "n_layer = 1000, n_embd = 4096: 2e+11 weights, expected at most 1e+10",
        ),
        (
            {"vqgan.autoencoder.channels": 4096},
            "channels * channels_multiplier = 16384: expected at most 8192",
        ),
        ({"evaluate.decoding.temperature": 1e-9}, "temperature = 1e-09: expected 0 (greedy), or"),
        (
            {"vqgan.loss.perceptual_subset": 100},
            "vqgan.loss.perceptual_subset = 100: expected at most vqgan.trainer.batch_size",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused(content, changes, mistake):
    _, *named = _mistakes(content, changes)
    before, _, after = mistake.partition(".*")
    assert len(named) == 1 and before in named[0] and after in named[0]


def test_all_mistakes_are_named_at_once(content):
    changes = {
        "train.lr_max": "abc",
        "train.n_epoch": 3,
        "base.threads": 0,
        "clip_chunk.min_frames": 26,  # a contradiction in a section that is fine otherwise
    }
    first, *named = _mistakes(content, changes)
    assert first == "4 mistakes in params.yaml:"
    for key in ("lr_max", "n_epoch:", "threads", "min_frames"):
        assert sum(key in line for line in named) == 1


def test_contradictions_between_sections_are_named_at_once(content):
    changes = {"ingest.height": 60, "evaluate.decoding.mode": "maskgit"}
    first, *named = _mistakes(content, changes)
    assert first == "2 mistakes in params.yaml:"
    assert "ingest.height = 60" in named[0] and "evaluate.decoding.mode" in named[1]


ENDS = [
    *(float("nan"), float("inf"), 1e300, 10**30, 10**4000, -2, -(10**30), True, [], {}, [[]]),
    *("", "x", "\0", "\ud800", "a" * 10**6, b"x", [1] * 1000, {"a": 1}),
]


@pytest.mark.parametrize("section", config.Params.model_fields)
def test_ends_of_every_key_are_fine_or_a_short_sentence(content, section):
    refused = 0
    for key in io.flatten({section: content[section]}):
        for value in ENDS:
            changed = _with(content, {key: value})
            try:
                config.parse(changed)
            except UserError as error:
                refused += 1
                assert len(str(error)) < 5000
            else:
                assert isinstance(value, bool | str | list), (key, value)
    assert refused >= len(ENDS) / 2


BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}, *a{n}, *a{n}]\n" for n in range(40)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds nothing"),
        ("# a\n", "holds nothing"),
        ("- 1\n", "holds a list"),
        ("5", "holds a value"),
        ("train: [1\n", "no valid YAML"),
        ("a: 1\na: 2\n", "duplicate key"),
        ("a:\n\tb: 1\n", "no valid YAML"),
        ("a: 1\n---\nb: 1\n", "no valid YAML"),
        ("a: " + "1" * 5000, "no valid YAML"),
        ("a: " + "[" * 1500, "no valid YAML"),
        ("a: 2020-13-45", "no valid YAML"),
        ("a: &a [*a]", "by an anchor"),
        (BOMB, "by an anchor"),
        ("a: &a {b: 1}\nc: {<<: [*a, *a]}", "by an anchor"),
        ("a: " + "x" * 2**17, "131075 bytes; expected at most 131072"),
        ("a: &a 1\nb: *a\n", "a: unknown key"),
        ("1: 2\nnull: 3\n", "1: "),
        ("a: \xe4".encode("latin-1"), "no UTF-8 text (byte 3"),
        ("base: {}".encode("utf-16"), "no UTF-8 text"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_with_its_name(tmp_path, text, said):
    file = tmp_path / "params.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"params\.yaml") as caught:
        config.load(file)
    assert said in str(caught.value) and len(str(caught.value)) < 3000


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "params.yaml").write_text(FILE.read_text("utf-8"), "utf-8-sig")
    assert config.load(tmp_path / "params.yaml") == config.load(FILE)


def test_a_missing_file_says_where_to_run(tmp_path):
    with pytest.raises(UserError, match="from the root of the project"):
        config.load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("old", "new", "near"),
    [
        ("  n_epochs: 7", "  n_epoch: 7", "vqgan.trainer.n_epoch: unknown key; did you mean vqgan"),
        ("  lr_max:", "  lrmax:", "train.lrmax: unknown key; did you mean train.lr_max?"),
        ("\ntrain:", "\ntraining:", "training: unknown key; did you mean train?"),
        ("\nscene_split:", "\nscene-split:", "did you mean scene_split?"),
        ("\nbase:", "\ntrain.lr_max: 1\nbase:", "train.lr_max: unknown key; write each part"),
        ("\nbase:", "\n5: 1\nbase:", "5: expected the name of a key, text"),
        (
            "  seed: 1 ",
            "  seed: 1\n  seed: 2 ",
            r'duplicate key "seed".*line 7.*\(line: 7\); mend it there$',
        ),
        ("  seed", "\tseed", r"no valid YAML: .*line 6, column 1.*; mend it there$"),
    ],
)
def test_a_slip_in_the_file_is_said_with_its_place(tmp_path, old, new, near):
    path = tmp_path / "params.yaml"
    path.write_text(FILE.read_text("utf-8").replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        config.load(path)
    assert near in str(caught.value) or re.search(near, str(caught.value))
    assert "http" not in str(caught.value) and "unicode string" not in str(caught.value)
