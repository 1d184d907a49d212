"""Moving MNIST: the authors' bouncing, splits apart, and every damaged file named."""

import gzip
import math
import struct
from itertools import pairwise

import numpy as np
import pytest

from pipeline import config, io
from pipeline.data import moving_mnist
from pipeline.data.detector_features import block_change
from pipeline.data.digits import CANVAS, DIGIT, DIGITS_FILE, STEP, draw, trajectory
from pipeline.data.frame_file import frame_bytes, open_frames, read_videos
from pipeline.data.moving_mnist import FPS, ingest_sequences, open_parts
from pipeline.errors import UserError

ANGLES = np.random.default_rng(0).uniform(0, 2 * math.pi, 40)


def rules(**changes):
    counts = {"train_sequences": 4, "test_sequences": 3, "epoch_sequences": 0}
    return config.MovingMnist(**counts | changes)


def idx(digits: np.ndarray, magic: int = 0x803) -> bytes:
    return struct.pack(">4I", magic, *digits.shape) + digits.astype(np.uint8).tobytes()


def squares(*levels: int) -> np.ndarray:
    """A full square of each level as digits, uint8 `n 28 28`."""
    return np.full((len(levels), DIGIT, DIGIT), np.array(levels)[:, None, None], np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Training digits of levels 10 to 19, test digits of levels 110 to 112."""
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(squares(*range(10, 20))))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(squares(110, 111, 112))))
    return tmp_path


def sequences(folder, **changes) -> dict[str, np.ndarray]:
    """All sequences of each split, uint8 `n T H W`."""
    parts = open_parts(folder, rules(**changes))
    return {part.split: np.stack([part.sequence(k) for k in range(part.count)]) for part in parts}


@pytest.mark.parametrize("angle", ANGLES)
def test_a_digit_stays_inside_and_keeps_its_speed_between_the_walls(angle):
    path = trajectory(0.3, 0.8, angle, 200)
    assert path.min() >= 0 and path.max() <= 1
    inside = ((path > 0) & (path < 1)).all(1)
    steps = np.hypot(*np.diff(path, axis=0).T)
    np.testing.assert_allclose(steps[inside[1:] & inside[:-1]], STEP)
    assert steps.max() <= STEP + 1e-9


def test_a_step_over_the_wall_ends_on_it_and_turns_back():
    path = trajectory(0.5, 0.75, 0.0, 8)
    np.testing.assert_allclose(path[:, 1], [0.85, 0.95, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5])
    np.testing.assert_allclose(path[:, 0], 0.5)
    back = trajectory(0.5, 0.05, math.pi, 3)
    np.testing.assert_allclose(back[:, 1], [0.0, 0.1, 0.2], atol=1e-12)


def test_directions_and_places_are_even():
    starts = [np.argwhere(draw(squares(255), 1, 3, (k,))[0])[0] for k in range(400)]
    mean = np.mean(starts, axis=0) / (CANVAS - DIGIT)
    assert (abs(mean - 0.5) < 0.06).all(), mean
    assert np.min(starts) == 0 and np.max(starts) == CANVAS - DIGIT


def test_one_digit_is_whole_in_every_frame():
    pictures = draw(squares(200), 1, 20, (1, 2))
    assert pictures.shape == (20, CANVAS, CANVAS) and pictures.dtype == np.uint8
    assert ((pictures == 200).sum((1, 2)) == DIGIT * DIGIT).all()
    assert set(np.unique(pictures)) == {0, 200}


def test_where_digits_overlap_the_brighter_pixel_is_seen():
    """Seven squares hide each other; the brightest of those drawn is never hidden."""
    pictures = draw(squares(50, 100, 150), 7, 20, (5,))
    brightest = pictures.max()
    assert ((pictures == brightest).sum((1, 2)) >= DIGIT * DIGIT).all()


def test_more_sequences_frames_or_digits_only_add(folder):
    few, many = sequences(folder), sequences(folder, train_sequences=9)
    for split, before in few.items():
        np.testing.assert_array_equal(many[split][: len(before)], before)
    few = draw(squares(9, 90), 2, 20, (1,))
    np.testing.assert_array_equal(draw(squares(9, 90), 2, 31, (1,))[:20], few)
    assert (draw(squares(9, 90), 3, 20, (1,)) >= few).all()


def test_no_two_sequences_are_alike(folder):
    first = sequences(folder)
    train = first["train"] > 0
    assert (train[0] != train[1]).any() and (train[0] != (first["test"] > 0)[0]).any()


def test_training_digits_are_in_train_only_and_test_digits_in_test(folder):
    found = sequences(folder, train_sequences=40, test_sequences=40)
    assert set(np.unique(found["train"])) == {0, *range(10, 20)}
    assert set(np.unique(found["test"])) == {0, 110, 111, 112}


@pytest.mark.parametrize("ending", ["-idx3-ubyte", ".idx3-ubyte"])
@pytest.mark.parametrize("packed", ["", ".gz", ".gz that is unpacked"])
def test_names_and_packing_change_nothing(folder, tmp_path_factory, ending, packed):
    other = tmp_path_factory.mktemp("mnist")
    contents = {"train": idx(squares(*range(10, 20))), "t10k": idx(squares(110, 111, 112))}
    for stem, content in contents.items():
        content = gzip.compress(content) if packed == ".gz" else content
        (other / f"{stem}-images{ending}{packed[:3]}").write_bytes(content)
    both = open_parts(folder, rules()), open_parts(other, rules())
    for ours, theirs in zip(*both, strict=True):
        assert ours.sha256 == theirs.sha256
        np.testing.assert_array_equal(ours.sequence(2), theirs.sequence(2))


GOOD = idx(squares(1, 2))
DAMAGED = {
    "empty": (b"", "0 bytes, expected a header of 16"),
    "labels": (struct.pack(">2I", 0x801, 8) + bytes(8), "magic number 2049, expected 2051"),
    "no picture": (struct.pack(">4I", 0x803, 0, 28, 28), "0 pictures, expected at least 1"),
    "other size": (idx(np.zeros((2, 32, 32))), "pictures of 32x32, expected 28x28"),
    "cut": (GOOD[:-5], "1579 bytes, expected 1584 for its 2 pictures"),
    "longer": (GOOD + b"\0", "1585 bytes, expected 1584"),
    "count": (struct.pack(">4I", 0x803, 2**32 - 1, 28, 28), "16 bytes, expected 3367254359"),
    "bomb": (gzip.compress(bytes(2**25)), "more than 17 MB, expected MNIST"),
    "cut gzip": (gzip.compress(GOOD)[:-12], "gzip that does not unpack"),
    "broken gzip": (gzip.compress(GOOD)[:10] + b"nonsense" * 9, "gzip that does not unpack"),
    "not gzip": (b"\x1f\x8bnonsense" * 9, "gzip that does not unpack"),
    "a page": (b"<html>Not found, sorry</html>", "magic number 1013478509, expected 2051"),
}


@pytest.mark.parametrize(("content", "said"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named(folder, content, said, monkeypatch):
    monkeypatch.setattr(moving_mnist, "MOST_BYTES", 2**24)
    (folder / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(UserError, match=f"train-images-idx3-ubyte: {said}.*download") as error:
        open_parts(folder, rules())
    assert "\n" not in str(error.value)


def test_missing_files_and_folders_are_named(folder):
    (folder / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"no t10k-images-idx3-ubyte in it .*; put MNIST's"):
        open_parts(folder, rules())
    (folder / "train-images-idx3-ubyte").unlink()
    with pytest.raises(UserError, match="no train-images-idx3-ubyte and no t10k-images"):
        open_parts(folder, rules())
    with pytest.raises(UserError, match=r"no such folder; put MNIST's .* or mnist_test_seq.npy"):
        open_parts(folder / "absent", rules())


@pytest.fixture
def stored(tmp_path):
    """Ten sequences in the authors' layout `T n H W`; the pixels of sequence k are k."""
    array = np.broadcast_to(np.arange(10, dtype=np.uint8)[None, :, None, None], (20, 10, 64, 64))
    np.save(tmp_path / "mnist_test_seq.npy", array)
    return tmp_path


def test_stored_sequences_are_train_first_then_test(stored):
    found = sequences(stored, train_sequences=6, test_sequences=3)
    assert found["train"].shape == (6, 20, 64, 64)
    assert found["train"][:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert found["test"][:, 0, 0, 0].tolist() == [6, 7, 8]
    parts = open_parts(stored, rules())
    assert {(part.height, part.width) for part in parts} == {(64, 64)}
    assert len({part.sha256 for part in parts}) == 1


def test_too_few_stored_sequences_are_an_error(stored):
    words = r"train_sequences \+ test_sequences = 11: .* at most the 10"
    with pytest.raises(UserError, match=words):
        open_parts(stored, rules(train_sequences=8))


ARRAYS = {
    "floats": (np.zeros((20, 10, 8, 8)), "float64"),
    "short": (np.zeros((12, 10, 64, 64), np.uint8), "12 frames, expected at least 20"),
    "flat": (np.zeros((20, 10), np.uint8), r"uint8 \(20, 10\)"),
    "empty": (np.zeros((20, 0, 64, 64), np.uint8), "no length of 0"),
    "pickled": (np.array([{}], dtype=object), "not readable"),
}


@pytest.mark.parametrize(("array", "said"), ARRAYS.values(), ids=ARRAYS)
def test_another_array_is_named(tmp_path, array, said):
    np.save(tmp_path / "mnist_test_seq.npy", array)
    with pytest.raises(UserError, match=f"mnist_test_seq.npy: .*{said}.*download"):
        open_parts(tmp_path, rules())


def test_a_cut_array_is_named(stored):
    path = stored / "mnist_test_seq.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"mnist_test_seq.npy: not readable .*download"):
        open_parts(stored, rules())
    path.write_bytes(path.read_bytes().replace(b"'descr'", b"('descr'", 1))
    with pytest.raises(UserError, match=r"mnist_test_seq.npy: not readable.*download"):
        open_parts(stored, rules())


def test_idx_files_and_stored_sequences_together_are_ambiguous(folder, stored):
    with pytest.raises(UserError, match=r"both mnist_test_seq.npy and idx files in it"):
        open_parts(folder, rules())


LENGTH = 6  # frames of a sequence here


@pytest.fixture
def source(tmp_path):
    """A few digits of noise as idx files, other ones for each split."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, count in {"train-images-idx3-ubyte": 7, "t10k-images-idx3-ubyte": 5}.items():
        (folder / name).write_bytes(idx(random.integers(0, 256, (count, DIGIT, DIGIT))))
    return folder


@pytest.fixture
def made(settings, monkeypatch):
    """Settings for 5 and 3 sequences, of which two stand in a file; dotted keys changed."""
    monkeypatch.setattr(moving_mnist, "SEQUENCES_A_FILE", 2)
    monkeypatch.setattr(moving_mnist, "N_FRAMES", LENGTH)

    def make(**changes) -> config.Params:
        rules = {"train_sequences": 5, "test_sequences": 3, "epoch_sequences": 0}
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
    for part in open_parts(source, mine.source.moving_mnist):
        for number in range(part.count):
            footage = open_frames(out, f"moving-mnist-{part.split}-{number // 2:04d}")
            first = number % 2 * LENGTH
            for frame, picture in enumerate(part.sequence(number)):
                expected = np.repeat(picture[..., None], 3, 2)
                np.testing.assert_array_equal(footage[first + frame], expected)


def test_digits_to_draw_from_are_kept_where_training_draws_its_sequences(source, made, tmp_path):
    out = tmp_path / "out"
    ingest_sequences(source, out, made(epoch_sequences=7))
    with np.load(out / DIGITS_FILE) as content:
        assert int(content["epoch_sequences"]) == 7
        digits, _ = moving_mnist.read_idx(moving_mnist.locate(source)["train"])
        np.testing.assert_array_equal(content["digits"], digits)
    ingest_sequences(source, out, made())
    assert not (out / DIGITS_FILE).exists()


def test_stored_sequences_hold_no_digits_to_draw_from(stored):
    with pytest.raises(
        UserError, match=r"epoch_sequences = 5: expected 0 with mnist_test_seq\.npy"
    ):
        open_parts(stored, rules(epoch_sequences=5))


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
    monkeypatch.setattr(moving_mnist, "BATCH_FRAMES", 4)
    ingest_sequences(source, tmp_path / "four", made())
    one, four = (open_frames(tmp_path / n, "moving-mnist-train-0001") for n in ("one", "four"))
    for term in ("delta_lum", "block_change", "time"):
        np.testing.assert_array_equal(one.term(term), four.term(term))
    np.testing.assert_array_equal(one.small, four.small)


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
    def interrupted(*_):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    monkeypatch.setattr(moving_mnist.frames, "fit", interrupted)
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
