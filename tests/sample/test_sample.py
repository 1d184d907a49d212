"""The embedded sample: same seed, same bytes; and its truth is true of its frames."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest

from pipeline.config import SampleEpisodes
from pipeline.sample import acting, render_episodes
from pipeline.sample.acting import Actor
from pipeline.sample.camera import HEIGHT, WORLD, Move, View
from pipeline.sample.character import CAST
from pipeline.sample.episode import FPS, PICTURE, episode_script, film
from pipeline.sample.places import PLACES
from pipeline.sample.script import MAX_OVERLAY
from pipeline.sample.shooting import VISIBLE, change

SMALL = SampleEpisodes(episodes=2, seconds=4.0)
SERIES = SampleEpisodes(episodes=6, seconds=48.0)
TINY = (64, 128)  # height, width


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*.*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def scripts():
    return [episode_script(SERIES, 0, number) for number in range(1, 7)]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    out = tmp_path_factory.mktemp("sample")
    return out, render_episodes(SMALL, 3, out, 1)


def filmed(params, seed, number):
    """Frames as drawn, before encoding, their scenes, changing frames, and motion by scene."""
    scenes, drawings, motion = episode_script(params, seed, number), [], []
    return list(film(scenes, drawings, motion, TINY)), scenes, drawings, motion


@pytest.fixture(scope="module")
def film_of_one():
    return filmed(SMALL.model_copy(update={"seconds": 12.0}), 5, 1)


def test_bytes_do_not_depend_on_the_number_of_workers(rendered, tmp_path):
    out, summary = rendered
    assert render_episodes(SMALL, 3, tmp_path, 2) == summary
    assert files(tmp_path) == files(out)
    assert sorted(files(out)) == [
        "episodes/episode_01.mp4",
        "episodes/episode_02.mp4",
        "truth/episode_01.json",
        "truth/episode_02.json",
    ]


def test_another_seed_gives_another_series_and_old_episodes_go(rendered, tmp_path):
    render_episodes(SMALL, 3, tmp_path, 1)
    render_episodes(SMALL.model_copy(update={"episodes": 1}), 4, tmp_path, 1)
    other = files(tmp_path)
    assert sorted(other) == ["episodes/episode_01.mp4", "truth/episode_01.json"]
    assert other["episodes/episode_01.mp4"] != files(rendered[0])["episodes/episode_01.mp4"]


def test_truth_and_summary_agree(rendered):
    out, summary = rendered
    truths = [json.loads(path.read_text()) for path in sorted(out.glob("truth/*.json"))]
    assert summary["frames"] == sum(truth["n_frames"] for truth in truths) == 2 * 4 * 24
    assert summary["scenes"] == sum(len(truth["scenes"]) for truth in truths)
    assert summary["drawings"] + summary["held_frames"] == summary["frames"]
    for truth in truths:
        ends = [0] + [scene["end"] for scene in truth["scenes"]]
        assert [scene["start"] for scene in truth["scenes"]] == ends[:-1]
        assert ends[-1] == truth["n_frames"]
        assert truth["cuts"] == ends[1:-1]
        assert {0, *truth["cuts"]} <= set(truth["drawings"])
        assert all(scene["background"] in PLACES for scene in truth["scenes"])


def test_drawings_are_the_frames_that_change_visibly(film_of_one):
    frames, _, drawings, _ = film_of_one
    assert 0 in drawings
    for number in range(1, len(frames)):
        changed = change(frames[number - 1], frames[number])
        assert (changed >= VISIBLE) == (number in drawings)
        assert (frames[number] == frames[number - 1]).all() == (number not in drawings)


def test_motion_is_that_of_the_frames(film_of_one):
    frames, scenes, _, motion = film_of_one
    for scene, moved in zip(scenes, motion, strict=True):
        stack = np.array(frames[scene.start : scene.end], np.int16)
        assert moved == pytest.approx(np.abs(np.diff(stack, axis=0)).mean(), rel=1e-6)


def test_snow_moves_on_every_frame(scripts):
    scene = next(scene for script in scripts for scene in script if scene.snow is not None)
    drawings = []
    assert len(list(film([scene], drawings, [], TINY))) == scene.frames
    assert drawings == list(range(scene.start, scene.end))


def test_fade_ends_in_black(scripts):
    scene = next(scene for script in scripts for scene in script if scene.fade)
    frames = list(film([scene], [], [], TINY))
    assert frames[-1].mean() < 0.5 and (frames[-1] == frames[-6]).all()
    assert frames[0].mean() > 40


def test_series_has_what_it_promises(scripts):
    scenes = [scene for script in scripts for scene in script]
    assert 80 <= len(scenes) <= 110
    assert {scene.place for scene in scenes} == set(PLACES)
    assert {actor.name for scene in scenes for actor in scene.actors} == set(CAST)
    assert {scene.shot for scene in scenes} == {"wide", "medium", "close"}
    assert {scene.move.kind for scene in scenes} == {"static", "pan", "zoom"}
    assert {actor.on for scene in scenes for actor in scene.actors} == {1, 2, 3}
    moving = ("pan", "walk", "run", "follow", "zoom", "jump")
    assert sum(scene.kind in moving for scene in scenes) >= len(scenes) / 3
    for script in scripts:
        assert sum(scene.fade for scene in script) == 1
        assert sum(scene.flash_at is not None for scene in script) == 1
        snow = sum(scene.frames for scene in script if scene.snow is not None)
        assert 0 < snow <= MAX_OVERLAY * script[-1].end


@pytest.mark.parametrize("seconds", [4.0, 5.3, 8.0, 20.0, 61.7])
def test_scenes_tile_the_episode_and_last_long_enough(seconds):
    params = SMALL.model_copy(update={"seconds": seconds})
    for number in range(1, 5):
        scenes = episode_script(params, 1, number)
        ends = [0] + [scene.end for scene in scenes]
        assert [scene.start for scene in scenes] == ends[:-1]
        assert ends[-1] == round(seconds * FPS)
        assert all(FPS <= scene.frames <= 6 * FPS for scene in scenes)
        places = [scene.place for scene in scenes]
        assert all(a != b for a, b in pairwise(places))


@pytest.mark.parametrize("pace", [acting.ease, acting.glide])
def test_easing_runs_from_0_to_1_slow_at_both_ends(pace):
    values = np.array([pace(t) for t in np.linspace(0, 1, 101)])
    steps = np.diff(values)
    assert values[0] == 0 and values[-1] == pytest.approx(1)
    assert (steps > 0).all()
    assert steps[0] < steps[50] / 3 and steps[-1] < steps[50] / 3


@pytest.mark.parametrize("on", [1, 2, 3])
def test_a_pose_is_held_on_its_number_of_frames(on):
    actor = Actor("mika", "walk", 100.0, 250.0, on, travel=300.0)
    poses = [actor.pose(frame, 48, 24) for frame in range(48)]
    changes = [frame for frame in range(1, 48) if poses[frame] != poses[frame - 1]]
    assert changes == list(range(on, 48, on))


def test_a_hop_is_a_parabola_from_the_ground_to_the_ground():
    actor = Actor("mika", "jump", 100.0, 250.0, 1, travel=90.0, hops=1)
    lifts = np.array([actor.pose(frame, 101, 24).lift for frame in range(101)])
    air = np.flatnonzero(lifts)
    assert lifts[0] == lifts[-1] == 0 and lifts.argmax() == 50
    assert np.diff(lifts[air], 3) == pytest.approx(0, abs=1e-9)


def test_a_walk_goes_where_it_should():
    actor = Actor("taro", "walk", 100.0, 250.0, 1, travel=-80.0)
    xs = [actor.pose(frame, 25, 24).x for frame in range(25)]
    assert xs[0] == 100 and xs[-1] == pytest.approx(20)
    assert all(a > b for a, b in pairwise(xs))


def test_the_camera_stays_within_the_world(scripts):
    width = HEIGHT * PICTURE[1] / PICTURE[0]
    for scene in (scene for script in scripts for scene in script):
        for frame in range(scene.frames):
            view = scene.move.at(frame)
            assert view.zoom >= 1 - 1e-9
            assert view.x - width / view.zoom / 2 >= -1e-6
            assert view.x + width / view.zoom / 2 <= WORLD + 1e-6


def test_a_move_is_calmed_to_the_limit():
    move = Move(View(300, 144, 1.0), View(900, 144, 1.0), acting.glide, 1, 25)
    calm = move.calmed(512, 5.0)
    assert math.isclose(calm.fastest(512), 5.0, rel_tol=1e-3)
    assert calm.start == move.start and calm.end.x < move.end.x
    assert move.calmed(512, 1000.0) == move
