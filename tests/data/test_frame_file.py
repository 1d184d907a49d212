"""Frame files: what is written is what is read, mapped, and nothing half-written has the name."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.data.detector_features import TERMS
from pipeline.data.frame_file import FrameFile, is_begun, write_frames
from pipeline.errors import UserError

IMAGES = np.random.default_rng(1).integers(0, 256, (20, 6, 10, 3), np.uint8)
SMALL = np.arange(20 * 32 * 32).astype(np.uint8).reshape(20, 32, 32)
MEASURED = {name: np.zeros(20, np.float32) for name in TERMS} | {"small": SMALL}


def test_frames_come_back_across_batches(frame_file):
    footage = frame_file(IMAGES, batch=7)
    assert len(footage) == 20
    assert all(np.array_equal(footage[at], IMAGES[at]) for at in range(20))
    assert footage.term("delta_hue").shape == (20,)


def test_columns_are_the_contract(frame_file, tmp_path):
    frame_file(IMAGES)
    table = pa.ipc.open_file(pa.memory_map(str(tmp_path / "film.arrow"))).read_all()
    assert table.schema.names == ["frame", "image", *TERMS, "small"]
    assert table.schema.types[:3] == [pa.int32(), pa.binary(6 * 10 * 3), pa.float32()]
    assert table.schema.metadata == {b"height": b"6", b"width": b"10"}
    assert table.schema.types[-2:] == [pa.float32(), pa.binary(1024)]
    assert table["frame"].to_pylist() == list(range(20))
    assert table["image"][3].as_py() == IMAGES[3].tobytes()


def test_small_pictures_come_back_across_batches(tmp_path):
    path = tmp_path / "film.arrow"
    with write_frames(path, 6, 10) as out:
        for part in (slice(0, 7), slice(7, 20)):
            out.append(IMAGES[part], {name: values[part] for name, values in MEASURED.items()})
    small = FrameFile(path).small
    assert small.dtype == np.uint8 and np.array_equal(small, SMALL)


@pytest.mark.parametrize("last", [0, 1])
def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path, last):
    """A node that is cut off goes on while another has begun the same video again."""
    path = tmp_path / "film.arrow"
    writers = [write_frames(path, 6, 10) for _ in range(2)]
    outs = [writer.__enter__() for writer in writers]
    assert is_begun(path)
    for part in (slice(0, 7), slice(7, 20)):
        for out in outs:
            out.append(IMAGES[part], {name: values[part] for name, values in MEASURED.items()})
    writers[1 - last].__exit__(None, None, None)
    assert np.array_equal(FrameFile(path)[19], IMAGES[19])
    writers[last].__exit__(None, None, None)
    assert np.array_equal(FrameFile(path)[19], IMAGES[19]) and len(FrameFile(path)) == 20
    assert [name.name for name in tmp_path.iterdir()] == ["film.arrow"]


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_compressed_file_gives_the_same_and_is_smaller(tmp_path, compression):
    flat = np.repeat(IMAGES[:, :1], 6, axis=1)
    for name in ("none", compression):
        with write_frames(tmp_path / f"{name}.arrow", 6, 10, {"split": "x"}, name) as out:
            for at in range(0, 20, 3):
                part = slice(at, at + 3)
                out.append(flat[part], {key: values[part] for key, values in MEASURED.items()})
    packed, plain = (FrameFile(tmp_path / f"{name}.arrow") for name in (compression, "none"))
    sizes = [(tmp_path / f"{name}.arrow").stat().st_size for name in (compression, "none")]
    assert sizes[0] < sizes[1] * 0.8 and packed.about == plain.about == {"split": "x"}
    order = np.random.default_rng(0).permutation(20)
    assert all(np.array_equal(packed[at], flat[at]) for at in order)
    for name in TERMS:
        assert np.array_equal(packed.term(name), plain.term(name))
    assert np.array_equal(packed.small, plain.small)


def test_what_is_known_of_a_file_comes_back(frame_file):
    about = {"scene_frames": "20", "split": "prüfen"}
    assert frame_file(IMAGES, about=about).about == about
    assert frame_file(IMAGES).about == {}


def test_a_file_of_another_version_says_what_to_do(tmp_path):
    path = tmp_path / "old.arrow"
    columns = pa.schema([("frame", pa.int32())], metadata={"height": "6", "width": "10"})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, columns):
        pass
    with pytest.raises(UserError, match=r"another version: it lacks .*delta_edges.*dvc repro"):
        FrameFile(path)


def test_reading_maps_and_copies_nothing(frame_file):
    before = pa.total_allocated_bytes()
    footage = frame_file(np.zeros((200, 64, 128, 3), np.uint8), batch=50)
    assert footage[199].sum() == 0
    assert pa.total_allocated_bytes() - before < 1_000_000


def test_an_error_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError), write_frames(tmp_path / "x.arrow", 6, 10) as out:
        out.append(IMAGES, MEASURED)
        raise RuntimeError
    with write_frames(tmp_path / "empty.arrow", 6, 10):
        pass
    assert not list(tmp_path.iterdir())


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))  # as if the disk ended there
    try:
        with (
            pytest.raises(OSError, match=r"x\.arrow"),
            write_frames(tmp_path / "x.arrow", 6, 10) as out,
        ):
            out.append(IMAGES, MEASURED)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_missing_and_damaged_files_say_what_to_do(frame_file, tmp_path):
    frame_file(IMAGES)
    path = tmp_path / "film.arrow"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"film.arrow is damaged.*dvc repro ingest"):
        FrameFile(path)
    with pytest.raises(UserError, match=r"gone.arrow is missing"):
        FrameFile(tmp_path / "gone.arrow")
