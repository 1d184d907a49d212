"""The comparison of transformers: its tables, numbers and pictures, from rows made by hand."""

import json
import shutil
from argparse import Namespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks import transformer
from pipeline.errors import UserError

GROUPS = ("all", "high", "middle", "low")
NUMBERS = ("psnr", "ssim", "lpips", "motion_ratio", "control_point_ratio")


@pytest.fixture
def rows(monkeypatch):
    """Each variant draws `seed`, the last one `maskgit 4` too; 10 dB, 11 dB, ... in this order."""
    psnr = iter(range(10, 100))

    def train_row(settings, project, out):
        drawings = ["seed"] + (["maskgit 4"] if settings.train.mode == "maskgit" else [])
        for drawing in drawings:
            folder = out / drawing.replace(" ", "-")
            folder.mkdir(parents=True)
            baselines = ["cross_fade", "round_trip"] + ["rife"] * (out.name == "pace")
            of = {"model": float(next(psnr))} | dict.fromkeys(baselines, 5.0)
            pd.DataFrame(
                {"group": group, "candidate": name} | dict.fromkeys(NUMBERS, value)
                for group in GROUPS
                for name, value in of.items()
            ).to_csv(folder / "groups.csv")
            pd.DataFrame(
                {"candidate": name, "frame": k, "psnr": value}
                for name, value in of.items()
                for k in range(1, 5)
            ).to_csv(folder / "by_frame.csv")
        shown = {f"c|{name}": np.zeros((5, 8, 16, 3), np.uint8) for name in [*drawings, "truth"]}
        np.savez(out / "shown.npz", **shown)
        return {"seconds": 3.0, "drawings": {d: {"seconds_a_clip": 0.5} for d in drawings}}

    monkeypatch.setattr(transformer, "train_row", train_row)


def compared(tmp_path, *only: str, strips: tuple[str, ...] = ()) -> dict:
    given = {"experiment": "transformer", "only": only, "threads": 1, "name": "here"}
    given["strips"] = strips
    paths = {"project": transformer.Path(__file__).parents[1], "out": tmp_path / "out"}
    transformer.compare(Namespace(**given, **paths), tmp_path / "work")
    return json.loads((tmp_path / "out/here.json").read_text())


def test_every_variant_and_drawing_is_a_row_beside_each_baseline_once(rows, tmp_path, capsys):
    found = compared(tmp_path, "pace", "maskgit")
    named = ["cross_fade", "round_trip", "rife", "pace", "maskgit, seed", "maskgit 4"]
    high = {row["candidate"]: row for row in found["measures"] if row["group"] == "high"}
    assert list(high) == named and set(found["rows"]) == {"pace", "maskgit"}
    assert [high[name]["psnr"] for name in named] == [5, 5, 5, 10, 11, 12]
    assert "seconds" not in high["rife"] and high["maskgit 4"]["seconds"] == 0.5
    table = (tmp_path / "out/here.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == [
        f"| {name.replace('_', ' ')}" for name in named
    ]
    assert "| 12.00 | 12.000 | 12.0000 |" in table[-1] and table[-1].endswith("| 0.50 |")
    lines = [json.loads(x) for x in capsys.readouterr().out.splitlines() if x.startswith("{")]
    assert {"transformer/pace/psnr", "transformer/maskgit 4/seconds"} <= {x["name"] for x in lines}
    for picture in ("here.png", "here-drift.png"):
        assert min(Image.open(tmp_path / "out" / picture).size) > 20


def test_a_misspelt_variant_is_named(rows, tmp_path):
    with pytest.raises(UserError, match=r"--only copyin: expected some of thesis, .*copying"):
        compared(tmp_path, "pace", "copyin")
    with pytest.raises(UserError, match=r"--strips thesis: expected some of pace, maskgit"):
        compared(tmp_path, "pace", "maskgit", strips=("thesis",))


def test_strips_may_show_some_variants_only(rows, tmp_path):
    compared(tmp_path, "pace", "maskgit")
    all_of_them = Image.open(tmp_path / "out/here.png").height
    shutil.rmtree(tmp_path / "work")
    compared(tmp_path, "pace", "maskgit", strips=("pace",))
    assert Image.open(tmp_path / "out/here.png").height < all_of_them
