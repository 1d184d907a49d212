"""Made sequences in the form of ingested videos: what later stages read of them."""

import gzip
import hashlib
import struct
from itertools import pairwise

import numpy as np
import pytest

from pipeline import config, io
from pipeline.data import sequences
from pipeline.data.detector_features import block_change
from pipeline.data.frame_file import FrameFile, frame_bytes, open_frames, read_videos
from pipeline.data.moving_mnist import open_parts
from pipeline.data.sequences import FPS, ingest_sequences
from pipeline.errors import UserError

LENGTH = 6  # frames of a sequence here


@pytest.fixture
def source(tmp_path):
    """A few digits of noise as idx files, other ones for each split."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, count in {"train-images-idx3-ubyte": 7, "t10k-images-idx3-ubyte": 5}.items():
        header = struct.pack(">4I", 0x803, count, 28, 28)
        (folder / name).write_bytes(header + random.bytes(count * 784))
    return folder


@pytest.fixture
def made(settings, monkeypatch):
    """Settings for 5 and 3 sequences, of which two stand in a file; dotted keys changed."""
    monkeypatch.setattr(sequences, "SEQUENCES_A_FILE", 2)

    def make(**changes) -> config.Params:
        rules = {
            "seed": 1,
            "train_sequences": 5,
            "test_sequences": 3,
            "digits": 2,
            "n_frames": LENGTH,
        }
        size = {"height": 64, "width": 64} | {k: v for k, v in changes.items() if k in SIZES}
        rules |= {key: value for key, value in changes.items() if key not in SIZES}
        source = settings.source.model_copy(update={"moving_mnist": config.MovingMnist(**rules)})
        ingest = settings.ingest.model_copy(update=size)
        return settings.model_copy(update={"source": source, "ingest": ingest})

    return make


SIZES = ("height", "width", "fit")


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_frames_are_read_back_as_the_sequences(source, made, tmp_path):
    mine, out = made(), tmp_path / "out"
    ingest_sequences(source, out, mine)
    for part in open_parts(source, mine.source.moving_mnist, mine.source.moving_mnist.seed):
        for number in range(part.count):
            footage = open_frames(out, f"moving-mnist-{part.split}-{number // 2:04d}")
            first = number % 2 * LENGTH
            for frame, picture in enumerate(part.sequence(number)):
                expected = np.repeat(picture[..., None], 3, 2)
                np.testing.assert_array_equal(footage[first + frame], expected)


def test_table_and_summary_tell_what_was_written(source, made, tmp_path):
    summary = ingest_sequences(source, tmp_path / "out", made())
    table = read_videos(tmp_path / "out")
    names = [f"moving-mnist-train-{i:04d}" for i in range(3)]
    assert table["video_id"].tolist() == [
        *names,
        "moving-mnist-test-0000",
        "moving-mnist-test-0001",
    ]
    assert table["n_frames"].tolist() == [12, 12, 6, 12, 6]
    assert table["duration"].tolist() == [1.2, 1.2, 0.6, 1.2, 0.6]
    assert table["path"].nunique() == table["sha256"].nunique() == 2
    for column, value in {"codec": "moving_mnist", "fps": "10/1", "status": "ok"}.items():
        assert set(table[column]) == {value}
    assert set(table["height"]) == set(table["width"]) == {64}
    assert summary == {
        "videos": 5,
        "videos_truncated": 0,
        "videos_damaged": 0,
        "videos_duplicate": 0,
        "videos_too_short": 0,
        "videos_rejected": 0,
        "frames": 48,
        "megabytes": 48 * frame_bytes(64, 64) / 1e6,
    }


def test_every_file_tells_its_split_and_the_length_of_its_scenes(source, made, tmp_path):
    ingest_sequences(source, tmp_path / "out", made())
    for video_id in read_videos(tmp_path / "out")["video_id"]:
        about = open_frames(tmp_path / "out", video_id).about
        assert about["scene_frames"] == str(LENGTH)
        assert about["split"] == video_id.split("-")[2]


def test_terms_are_those_of_the_frames(source, made, tmp_path, frame_file):
    ingest_sequences(source, tmp_path / "out", made())
    footage = open_frames(tmp_path / "out", "moving-mnist-train-0000")
    pictures = np.stack([footage[i] for i in range(len(footage))])
    expected = frame_file(pictures, batch=5)
    for term in ("delta_hue", "delta_sat", "delta_lum", "mean_luma", "block_change"):
        np.testing.assert_array_equal(footage.term(term), expected.term(term), err_msg=term)
    changes = [block_change(now, then) for then, now in pairwise(pictures)]
    np.testing.assert_allclose(footage.term("block_change"), [0, *changes], rtol=1e-6)
    np.testing.assert_allclose(footage.term("time"), np.arange(12) / FPS, rtol=1e-6)


@pytest.mark.parametrize(
    "size", [{"height": 32, "width": 48}, {"height": 64, "width": 128, "fit": "pad"}]
)
def test_frames_have_the_models_size_and_terms_do_not_depend_on_it(source, made, tmp_path, size):
    ingest_sequences(source, tmp_path / "as is", made())
    ingest_sequences(source, tmp_path / "fitted", made(**size))
    plain = open_frames(tmp_path / "as is", "moving-mnist-test-0000")
    fitted = open_frames(tmp_path / "fitted", "moving-mnist-test-0000")
    assert fitted[0].shape == (size["height"], size["width"], 3)
    np.testing.assert_array_equal(fitted.term("delta_lum"), plain.term("delta_lum"))


def test_batches_change_nothing(source, made, tmp_path, monkeypatch):
    ingest_sequences(source, tmp_path / "one", made())
    monkeypatch.setattr(sequences, "BATCH_FRAMES", 4)
    ingest_sequences(source, tmp_path / "four", made())
    one, four = (open_frames(tmp_path / n, "moving-mnist-train-0001") for n in ("one", "four"))
    for term in ("delta_lum", "block_change", "time"):
        np.testing.assert_array_equal(one.term(term), four.term(term))
    np.testing.assert_array_equal(one.plane("small"), four.plane("small"))


def test_the_same_seed_gives_the_same_bytes(source, made, tmp_path):
    for name in ("one", "two"):
        ingest_sequences(source, tmp_path / name, made())
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_more_sequences_leave_whole_files_as_they_were(source, made, tmp_path):
    ingest_sequences(source, tmp_path / "few", made())
    ingest_sequences(source, tmp_path / "many", made(train_sequences=9))
    few, many = files(tmp_path / "few"), files(tmp_path / "many")
    for name in ("train-0000", "train-0001", "test-0000", "test-0001"):
        assert few[f"moving-mnist-{name}.arrow"] == many[f"moving-mnist-{name}.arrow"]


def test_nothing_stays_of_an_earlier_run(source, made, tmp_path):
    out = tmp_path / "out"
    ingest_sequences(source, out, made(train_sequences=9))
    (out / "killed.arrow.partial").write_bytes(b"half")
    ingest_sequences(source, out, made(train_sequences=2))
    left = {path.name for path in out.iterdir()}
    numbers = ("train-0000", "test-0000", "test-0001")
    assert left == {"videos.parquet", *(f"moving-mnist-{name}.arrow" for name in numbers)}


def test_a_damaged_source_touches_nothing_that_was_there(source, made, tmp_path):
    out = tmp_path / "out"
    ingest_sequences(source, out, made())
    before = files(out)
    damaged = source / "t10k-images-idx3-ubyte"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(UserError, match="t10k-images-idx3-ubyte: 3935 bytes, expected 3936"):
        ingest_sequences(source, out, made())
    assert files(out) == before


def test_an_interruption_leaves_no_table_and_no_half_file(source, made, tmp_path, monkeypatch):
    def interrupted(pictures, _):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    monkeypatch.setattr(sequences, "fit_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ingest_sequences(source, out, made())
    assert list(out.iterdir()) == []


def test_the_authors_array_is_taken_in_order(made, tmp_path):
    array = np.zeros((20, 8, 64, 64), np.uint8)
    array[:] = np.arange(0, 80, 10, dtype=np.uint8)[None, :, None, None]
    np.save(tmp_path / "mnist_test_seq.npy", array)
    ingest_sequences(tmp_path, tmp_path / "out", made())
    luma = [
        open_frames(tmp_path / "out", f"moving-mnist-{name}").term("mean_luma")[::LENGTH]
        for name in ("train-0000", "train-0001", "train-0002", "test-0000", "test-0001")
    ]
    np.testing.assert_allclose(np.concatenate(luma), np.arange(0, 80, 10), rtol=1e-5)
    table = io.read_table(tmp_path / "out/videos.parquet", io.VIDEOS)
    assert set(table["path"]) == {"mnist_test_seq.npy"}


def test_real_digits(data, made, tmp_path):
    if not (data / "mnist").is_dir():
        pytest.skip(f"NAKAWARI_DATA: no MNIST in {data}")
    ingest_sequences(data / "mnist", tmp_path / "out", made(n_frames=20))
    table = read_videos(tmp_path / "out")
    content = gzip.decompress((data / "mnist/train-images-idx3-ubyte.gz").read_bytes())
    assert table["sha256"][0] == hashlib.sha256(content).hexdigest()
    for video_id in table["video_id"]:
        footage = FrameFile(tmp_path / "out" / f"{video_id}.arrow")
        luma = footage.term("mean_luma")
        assert (luma > 3).all() and (luma < 60).all()
        assert footage[0].max() > 200
        moved = footage.term("block_change")
        assert np.median(moved) > 10
