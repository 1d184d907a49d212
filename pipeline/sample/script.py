"""The script of an episode: which scene, where, who, what, how long, and how it is filmed.

Nine kinds of scene recur over all episodes; position, direction, speed and timing vary. An
episode deals them like cards, so that every kind comes up equally often in the long run.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from pipeline.sample.acting import Actor, Track, ease, glide, moves
from pipeline.sample.camera import HEIGHT, WORLD, Move, View
from pipeline.sample.character import CAST, CHIN
from pipeline.sample.effects import DARK_SECONDS, FADE_SECONDS, snowflakes
from pipeline.sample.places import PLACES

GROUND = 252.0
MAX_OVERLAY = 0.11  # share of an episode's frames under snow
MIN_SECONDS = 1.0
LONGEST_STEP = 3.9  # of the camera, in picture units at 24 fps: faster pans look like cuts
CALM = ("talk", "close", "wave")  # kinds whose motion and a fade together look like no cut


@dataclass(frozen=True)
class Scene:
    """One shot: frames [start, start + frames) of its episode."""

    kind: str
    place: str
    start: int
    frames: int
    shot: str  # wide | medium | close
    actors: list[Actor]
    move: Move
    front: bool = False  # things pass before the characters
    snow: np.ndarray | None = None  # flakes
    fade: bool = False
    flash_at: int | None = None  # brightest frame, counted from `start`

    @property
    def end(self) -> int:
        return self.start + self.frames


@dataclass(frozen=True)
class Slate:
    """What the writer of a scene is given: chance, length, and the width of a picture at zoom 1."""

    rng: np.random.Generator
    frames: int
    fps: float
    width: float  # world units

    @property
    def seconds(self) -> float:
        return self.frames / self.fps

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def inner(self, margin: float) -> float:
        """An x that is `margin` away from both ends of the world."""
        return self.between(margin, WORLD - margin)

    def pick(self, *options):
        return options[int(self.rng.integers(len(options)))]

    def cast(self, count: int) -> list[str]:
        return [str(name) for name in self.rng.permutation(list(CAST))[:count]]

    def still(self, x: float, y: float, zoom: float) -> Move:
        view = View(x, y, zoom).inside(self.width)
        return Move(view, view, ease, 1, self.frames)

    def moving(self, start: View, end: View, pace: Callable[[float], float], on: int) -> Move:
        move = Move(start.inside(self.width), end.inside(self.width), pace, on, self.frames)
        return move.calmed(self.width, LONGEST_STEP * 24 / self.fps)

    def actor(self, name: str, action: str, x: float, on: int | None = None, **more) -> Actor:
        """An actor with blinks, and with a mouth that flaps where the action is talking: open and
        closed by turns, as in limited animation; no mouth is shown twice running."""
        on = on or self.pick(2, 2, 3)
        step = on * max(1, round(self.fps * 1.4 / on))
        first = on * int(self.rng.integers(1, max(2, step // on)))
        flaps = [0] if action in ("talk", "wave") else []
        while 0 < len(flaps) < 32:
            flaps.append((flaps[-1] + int(self.rng.integers(1, 3))) % 3)
        y = self.between(GROUND - 8, GROUND + 8)
        blinks = tuple(range(first, self.frames, step))
        return Actor(name, action, x, y, on, blinks=blinks, flaps=tuple(flaps), **more)

    def looks(self, rest: float, other: float, every: float = 0.9) -> Track:
        """Head turns to and fro between two directions."""
        return moves(self.rng, self.seconds, [rest, other] * 4, every)


# Each writer returns shot, actors, camera move, and whether the place's front layer is shown.
Written = tuple[str, list[Actor], Move, bool]


def _pan(slate: Slate) -> Written:
    zoom, way = slate.between(1.0, 1.2), slate.pick(-1.0, 1.0)
    half = slate.width / zoom / 2
    room = WORLD - 2 * half
    distance = min(slate.between(110, 170) * slate.seconds, room)
    left = half + slate.between(0, room - distance)
    path = (left, left + distance) if way > 0 else (left + distance, left)
    y = HEIGHT / zoom / 2 * slate.between(1.0, 1.05) + HEIGHT * (1 - 1 / zoom)
    actors = []
    for name, x in zip(slate.cast(2), (path[0] + way * 60, path[1] - way * 40), strict=True):
        turn = slate.looks(-way * 0.6, way * 0.6)
        action, gesture = slate.pick("talk", "stand", "wave"), slate.looks(0, 1)
        actors.append(slate.actor(name, action, x, turn=turn, gesture=gesture))
    views = [View(x, y, zoom) for x in path]
    move = slate.moving(*views, glide, slate.pick(1, 1, 2))
    return "wide", actors, move, slate.pick(True, False)


def _across(slate: Slate, action: str, speed: tuple, zooms: tuple) -> Written:
    """Somebody crosses the picture; the camera rests, others may watch."""
    zoom, way = slate.between(*zooms), slate.pick(-1.0, 1.0)
    span = slate.width / zoom
    centre = slate.inner(span / 2 + 10)
    travel = min(slate.between(*speed) * slate.seconds, span + 60)
    begin = centre - way * travel / 2 + slate.between(-20, 20)
    name, other = slate.cast(2)
    on = slate.pick(1, 2, 2) if action == "run" else slate.pick(2, 2, 3)
    mover = slate.actor(name, action, begin, on, travel=way * travel, phase=slate.between(0, 3))
    actors = [mover]
    if slate.rng.random() < 0.4:
        x = centre + slate.pick(-0.3, 0.3) * span
        watcher = slate.actor(other, "talk", x, turn=slate.looks(-way * 0.7, way * 0.7))
        actors = [replace(watcher, y=GROUND - 16), replace(mover, y=GROUND + 8)]
    return "wide", actors, slate.still(centre, 138 if zoom < 1.05 else 158, zoom), False


def _follow(slate: Slate) -> Written:
    """The camera goes along with somebody who walks: the background slides past."""
    zoom, way = slate.between(1.05, 1.5), slate.pick(-1.0, 1.0)
    on = slate.pick(1, 1, 1, 2)
    half = slate.width / zoom / 2
    room = WORLD - 2 * half
    distance = min(slate.between(100, 130) * slate.seconds, room)
    begin = half + (room - distance) * slate.between(0, 1) + (distance if way < 0 else 0.0)
    views = [View(x, 160, zoom) for x in (begin, begin + way * distance)]
    move = slate.moving(*views, glide, on)
    travel = move.end.x - move.start.x  # the camera may have been slowed down
    names, actors = slate.cast(2), []
    for i, name in enumerate(names[: slate.pick(1, 2)]):
        x, phase = begin + way * (slate.between(10, 50) - 95 * i), slate.between(0, 3)
        actors.append(slate.actor(name, "walk", x, on, travel=travel, phase=phase))
    return "medium" if zoom > 1.3 else "wide", actors, move, slate.pick(True, False)


def _zoom(slate: Slate) -> Written:
    near, far = slate.between(1.7, 2.2), slate.between(1.0, 1.15)
    centre = slate.inner(slate.width / far / 2)
    turn = slate.looks(slate.pick(-0.3, 0.0, 0.3), slate.pick(-0.55, 0.55), 1.2)
    actor = slate.actor(slate.cast(1)[0], "talk", centre + slate.between(-70, 70), turn=turn)
    views = [View(centre, 150, far), View(actor.x, _head(actor) + 14, near)]
    if slate.rng.random() < 0.4:
        views.reverse()
    move = slate.moving(*views, slate.pick(ease, glide), slate.pick(1, 1, 1, 2))
    return "wide", [actor], move, False


def _jump(slate: Slate) -> Written:
    zoom = slate.between(1.0, 1.15)
    span = slate.width / zoom
    centre = slate.inner(span / 2 + 10)
    hops = max(1, round(slate.seconds / slate.between(0.8, 1.1)))
    travel = slate.pick(-1.0, 0.0, 1.0) * min(slate.between(70, 130) * hops, 0.6 * span)
    name, other = slate.cast(2)
    on = slate.pick(1, 2, 2)
    actors = [slate.actor(name, "jump", centre - travel / 2, on, travel=travel, hops=hops)]
    if slate.rng.random() < 0.4:
        x = centre + slate.pick(-0.34, 0.34) * span
        watcher = slate.actor(other, "talk", x, turn=slate.looks(-0.6, 0.6))
        actors.insert(0, replace(watcher, y=GROUND - 14))
    return "wide", actors, slate.still(centre, 144, zoom), False


def _talk(slate: Slate) -> Written:
    """Two stand together, one speaks, the other listens."""
    zoom = slate.between(1.45, 1.7)
    centre = slate.inner(230)
    names, gap = slate.cast(2), slate.between(52, 66)
    turn, gesture = slate.looks(0.7, 0.15), slate.looks(0, 1, 1.0)
    first = slate.actor(names[0], "talk", centre - gap, turn=turn, gesture=gesture)
    action, turn = slate.pick("stand", "talk"), slate.looks(-0.7, -0.1, 1.4)
    second = slate.actor(names[1], action, centre + gap, turn=turn)
    return "medium", [first, second], slate.still(centre, 164, zoom), False


def _close(slate: Slate) -> Written:
    zoom = slate.between(2.1, 2.5)
    x = slate.inner(160)
    turn = slate.looks(slate.pick(-0.4, 0.0, 0.4), slate.pick(-0.55, 0.55), 1.1)
    action = slate.pick("talk", "talk", "stand")
    actor = slate.actor(slate.cast(1)[0], action, x, slate.pick(2, 2, 3), turn=turn)
    move = slate.still(x + slate.between(-26, 26), _head(actor) + 6, zoom)
    return "close", [actor], move, False


def _wave(slate: Slate) -> Written:
    zoom = slate.between(1.3, 1.6)
    x = slate.inner(220)
    name, turn, gesture = slate.cast(1)[0], slate.looks(0.0, 0.4), slate.looks(0.0, 1.0, 1.3)
    actor = slate.actor(name, "wave", x, 2, turn=turn, gesture=gesture)
    return "medium", [actor], slate.still(x + slate.between(-50, 50), 160, zoom), False


def _head(actor: Actor) -> float:
    return actor.y + CHIN * CAST[actor.name].size


# kind: writer, cards in the deck, shortest and longest scene in seconds
KINDS = {
    "pan": (_pan, 2, 2.2, 4.2),
    "walk": (lambda slate: _across(slate, "walk", (95, 135), (1.0, 1.3)), 2, 2.2, 3.8),
    "run": (lambda slate: _across(slate, "run", (210, 280), (1.0, 1.15)), 1, 1.4, 2.2),
    "follow": (_follow, 2, 1.8, 3.6),
    "zoom": (_zoom, 2, 1.6, 3.2),
    "jump": (_jump, 2, 1.5, 3.2),
    "talk": (_talk, 2, 2.4, 5.5),
    "close": (_close, 2, 1.6, 4.4),
    "wave": (_wave, 1, 1.8, 3.2),
}


def write_script(rng: np.random.Generator, frames: int, fps: float, aspect: float) -> list[Scene]:
    """The scenes of an episode of `frames` frames; they follow each other without a gap."""
    kinds = _deal(rng, [kind for kind, entry in KINDS.items() for _ in range(entry[1])])
    places = _deal(rng, list(PLACES))
    scenes, start = [], 0
    while start < frames:
        kind, place = next(kinds), next(places)
        write, _, shortest, longest = KINDS[kind]
        length, left = round(rng.uniform(shortest, longest) * fps), frames - start
        enough = round(1.5 * MIN_SECONDS * fps)  # for another scene after this one
        if left - length < enough:
            length = left if left <= 6 * fps or left < 2 * enough else left // 2
        written = write(Slate(rng, length, fps, HEIGHT * aspect))
        scenes.append(Scene(kind, place, start, length, *written))
        start += length
    _add_effects(rng, scenes, frames, fps, aspect)
    return scenes


def _deal(rng: np.random.Generator, cards: list[str]) -> Iterator[str]:
    """Shuffles and deals the same cards again and again; no card follows itself."""
    last = None
    while True:
        for card in rng.permutation(cards):
            if card != last:
                last = str(card)
                yield last


def _add_effects(rng, scenes: list[Scene], frames: int, fps: float, aspect: float) -> None:
    """One fade, one flash and some snow, each in scenes that are long enough and bare of others."""
    order = [int(i) for i in rng.permutation(len(scenes))]
    order = [i for i in order if scenes[i].move.kind == "static"]
    calmest = sorted(order, key=lambda i: scenes[i].kind not in CALM)
    fade_frames = (FADE_SECONDS + DARK_SECONDS + 0.3) * fps
    for i in calmest:
        if i < len(scenes) - 1 and scenes[i].frames >= fade_frames:
            scenes[i] = replace(scenes[i], fade=True)
            break
    for i in calmest:
        scene = scenes[i]
        if not scene.fade and scene.place != "night" and scene.frames >= 1.5 * fps:
            scenes[i] = replace(scene, flash_at=round(scene.frames * rng.uniform(0.4, 0.6)))
            break
    left = MAX_OVERLAY * frames
    for i in sorted(order, key=lambda i: scenes[i].place != "winter"):
        scene = scenes[i]
        bare = not scene.fade and scene.flash_at is None
        if scene.place in ("winter", "night", "town") and scene.frames <= left and bare:
            scenes[i] = replace(scene, snow=snowflakes(rng, aspect))
            left -= scene.frames
