"""The places of the series: what is painted on each layer, in world units.

Worlds are 1280 units wide and 288 high, feet stand at about y = 250. Every place has a colour
of its own, so that a cut from one to another is plain to see. Layers are painted a little wider
than the world, because near things move more than the camera.
"""

import numpy as np

from pipeline.sample.drawing import Brush, box, ellipse, smooth
from pipeline.sample.palette import INK, WHITE, Colour, mix, shade, tint

LEFT, RIGHT = -420.0, 1700.0  # painted range, for all depths


def _fill(brush: Brush, top: float, bottom: float, colour: Colour) -> None:
    brush.shape(box(LEFT, top, RIGHT, bottom), colour, 0)


def _ground(brush: Brush, top: float, colour: Colour, line: float = 1.0) -> None:
    brush.shape(box(LEFT, top, RIGHT, 320), colour, line)


def _hills(
    brush: Brush, base: float, height: float, width: float, colour: Colour, shift: float = 0
):
    """A row of round hills of uneven height."""
    for i, x in enumerate(np.arange(LEFT + shift, RIGHT, width)):
        tall = height * (1.0, 0.7, 1.25, 0.85)[i % 4]
        brush.shape(ellipse(x, base, width * 0.68, tall), colour)


def _cloud(brush: Brush, x: float, y: float, size: float, colour: Colour) -> None:
    puffs = [(-1.6, 0.2), (-1.0, -0.5), (0, -0.9), (1.0, -0.4), (1.6, 0.2), (0.8, 0.5), (-0.8, 0.5)]
    brush.shape(smooth(np.array(puffs) * size) + (x, y), colour, 0.7)


def _house(brush: Brush, x: float, wall: Colour, roof: Colour, glass: Colour, tall: float = 110.0):
    base = 212.0
    top = base - tall
    brush.shape(box(x - 62, top, x + 62, base), wall)
    brush.shape(np.array([(x - 78, top + 4), (x, top - 52), (x + 78, top + 4)], float), roof)
    for side in (-34, 34):
        brush.shape(box(x + side - 17, top + 20, x + side + 17, top + 54), glass)
        brush.stroke([(x + side, top + 20), (x + side, top + 54)], 0.7)
    brush.shape(box(x - 16, base - 48, x + 16, base), shade(roof, 0.25))


def _tree(brush: Brush, x: float, base: float, size: float, leaf: Colour) -> None:
    brush.shape(box(x - 7 * size, base - 60 * size, x + 7 * size, base), (140, 86, 52))
    crown = [(-46, -70), (-40, -110), (0, -140), (40, -112), (46, -72), (20, -50), (-20, -50)]
    brush.shape(smooth(np.array(crown) * size) + (x, base), leaf)
    light = smooth(np.array([(-26, -86), (-20, -112), (2, -120), (-4, -92)]) * size)
    brush.shape(light + (x, base), tint(leaf, 0.25), 0)


def _fir(brush: Brush, x: float, base: float, size: float, leaf: Colour) -> None:
    brush.shape(box(x - 6 * size, base - 30 * size, x + 6 * size, base), (120, 78, 60))
    for level, wide in ((-24, 44), (-62, 35), (-98, 25)):
        cone = [(-wide, level), (0, level - 58), (wide, level)]
        brush.shape(np.array(cone, float) * size + (x, base), leaf)
        snow = [(-wide * 0.42, level - 33), (0, level - 58), (wide * 0.42, level - 33)]
        brush.shape(np.array(snow) * size + (x, base), WHITE, 0.6)


def _bush(brush: Brush, x: float, y: float, size: float, leaf: Colour) -> None:
    puffs = [(-1.7, 0.6), (-1.2, -0.3), (-0.4, -0.8), (0.5, -0.8), (1.3, -0.2), (1.7, 0.6)]
    brush.shape(smooth(np.array([*puffs, (0, 0.9)]) * size) + (x, y), leaf)


def _town_far(brush: Brush) -> None:
    _fill(brush, 0, 320, (122, 206, 246))
    for x, y, size in ((60, 50, 22), (330, 76, 17), (560, 40, 25), (840, 66, 20), (1100, 46, 23)):
        _cloud(brush, x, y, size, WHITE)
    _hills(brush, 236, 100, 210, (128, 200, 140))


TOWN = ((252, 226, 170), (240, 150, 120), (196, 220, 240), (250, 200, 210), (214, 232, 160))
ROOFS = ((208, 72, 60), (96, 92, 160), (226, 128, 48), (70, 130, 130), (150, 70, 100))


def _town_near(brush: Brush) -> None:
    for i, x in enumerate(range(80, 1280, 188)):
        _house(brush, x, TOWN[i % 5], ROOFS[i * 2 % 5], (110, 170, 214), (112, 92, 124)[i % 3])
        if i % 2:
            _tree(brush, x + 94, 214, 0.72, (84, 172, 84))
    _ground(brush, 210, (228, 214, 196))
    _ground(brush, 232, (150, 146, 164))
    for x in range(-400, 1700, 96):
        brush.shape(box(x, 268, x + 48, 275), (250, 240, 200), 0)


def _town_front(brush: Brush) -> None:
    for x in range(-260, 1700, 520):
        brush.shape(box(x - 6, 40, x + 6, 320), (86, 90, 120))
        brush.shape(box(x - 14, 250, x + 14, 320), (86, 90, 120))
        brush.shape(ellipse(x, 30, 21), (255, 236, 150))


def _park_far(brush: Brush) -> None:
    _fill(brush, 0, 320, (196, 236, 214))
    brush.shape(ellipse(760, 64, 34), (255, 226, 96))
    _cloud(brush, 240, 60, 22, WHITE)
    _cloud(brush, 980, 84, 19, WHITE)
    _hills(brush, 220, 120, 300, (120, 204, 150))
    _hills(brush, 236, 80, 230, (84, 178, 120), 110)


def _park_near(brush: Brush) -> None:
    _ground(brush, 206, (116, 204, 84))
    _ground(brush, 262, (98, 184, 74), 0)
    brush.shape(ellipse(620, 232, 150, 17), (92, 190, 236))
    brush.shape(ellipse(590, 228, 46, 4), (190, 232, 250), 0)
    for x, size in ((60, 1.25), (330, 1.05), (870, 1.3), (1140, 1.1)):
        _tree(brush, x, 222, size, (52, 150, 82))
    _bench(brush, 470)
    _bush(brush, 1010, 216, 22, (70, 168, 74))
    for i, x in enumerate(range(-380, 1700, 118)):
        petal = ((250, 110, 130), (255, 220, 80), WHITE)[i % 3]
        brush.shape(ellipse(x, 268 + 10 * (i % 2), 7), petal, 0.7)


def _bench(brush: Brush, x: float) -> None:
    for side in (-38, 38):
        brush.shape(box(x + side - 4, 196, x + side + 4, 222), (90, 70, 70))
    brush.shape(box(x - 50, 170, x + 50, 182), (190, 116, 66))
    brush.shape(box(x - 50, 190, x + 50, 200), (190, 116, 66))


def _park_front(brush: Brush) -> None:
    for x in range(-300, 1700, 430):
        _bush(brush, x, 284, 42, (34, 116, 66))


def _room_far(brush: Brush) -> None:
    _fill(brush, 0, 320, (250, 196, 136))
    for x in range(-400, 1700, 120):
        brush.shape(box(x, 0, x + 52, 320), (246, 182, 118), 0)


def _room_near(brush: Brush) -> None:
    for x in (200, 760, 1160):
        _window(brush, x)
    _shelf(brush, 440)
    _shelf(brush, 980)
    _picture(brush, 590)
    _lamp(brush, 40)
    _ground(brush, 208, (196, 122, 84))
    _ground(brush, 204, (236, 226, 214))
    _ground(brush, 214, (196, 122, 84))
    for x in (310, 900):
        brush.shape(ellipse(x, 258, 170, 22), (196, 66, 84))
        brush.shape(ellipse(x, 258, 130, 15), (240, 150, 120), 0)


def _window(brush: Brush, x: float) -> None:
    brush.shape(box(x - 60, 34, x + 60, 144), (250, 244, 230))
    brush.shape(box(x - 50, 44, x + 50, 134), (140, 214, 246), 0.8)
    _cloud(brush, x - 14, 78, 13, WHITE)
    brush.stroke([(x, 44), (x, 134)], 1.0)
    for side in (-1, 1):
        curtain = [(0, 24), (26, 24), (22, 90), (34, 150), (0, 150)]
        brush.shape(np.array(curtain, float) * (side, 1) + (x - side * 76, 0), (214, 82, 92))


def _shelf(brush: Brush, x: float) -> None:
    brush.shape(box(x - 70, 70, x + 70, 210), (150, 92, 64))
    books = ((70, 130, 200), (220, 80, 70), (250, 200, 70), (90, 170, 100))
    for row, y in enumerate((80, 142)):
        brush.shape(box(x - 60, y, x + 60, y + 56), (112, 66, 54), 0.7)
        for i in range(5):
            left = x - 54 + i * 21 + 4 * row
            brush.shape(
                box(left, y + 8 + 6 * (i % 2), left + 18, y + 56), books[(i + row) % 4], 0.7
            )


def _picture(brush: Brush, x: float) -> None:
    brush.shape(box(x - 40, 50, x + 40, 116), (226, 176, 70))
    brush.shape(box(x - 30, 60, x + 30, 106), (110, 190, 170), 0.7)
    brush.shape(np.array([(x - 28, 105), (x - 6, 74), (x + 8, 90), (x + 16, 82), (x + 28, 105)]),
                (70, 120, 110), 0.6)  # fmt: skip


def _lamp(brush: Brush, x: float) -> None:
    brush.shape(box(x - 4, 90, x + 4, 212), (110, 80, 90))
    shade_ = [(-20, 56), (20, 56), (36, 104), (-36, 104)]
    brush.shape(np.array(shade_, float) + (x, 0), (255, 232, 140))


def _room_front(brush: Brush) -> None:
    for x in range(-200, 1700, 560):
        pot = [(-30, 236), (30, 236), (22, 320), (-22, 320)]
        for lean in (-1, 0, 1):
            leaf = [(-9, 0), (-14, -50), (lean * 12, -104), (14, -50), (9, 0)]
            brush.at(x, 240, lean * 0.5).shape(smooth(leaf), (60, 140, 90))
        brush.shape(np.array(pot, float) + (x, 0), (170, 70, 60))


def _night_far(brush: Brush) -> None:
    _fill(brush, 0, 320, (40, 44, 108))
    _fill(brush, 130, 320, (62, 62, 138))
    brush.shape(ellipse(640, 62, 36), (255, 240, 170))
    brush.shape(ellipse(652, 54, 9), (236, 214, 140), 0)
    for i, x in enumerate(range(-380, 1700, 74)):
        brush.shape(ellipse(x, 26 + (i * 53) % 104, 3.6), (255, 244, 200), 0)
    for i, x in enumerate(range(-400, 1700, 92)):
        top = 110 + (i * 37) % 56
        brush.shape(box(x, top, x + 92, 240), (46, 40, 92))


def _night_near(brush: Brush) -> None:
    walls = ((92, 76, 142), (70, 84, 150), (112, 74, 128))
    for i, x in enumerate(range(80, 1280, 188)):
        roof = ((54, 40, 90), (70, 44, 80), (44, 52, 96))[i % 3]
        _house(brush, x, walls[i % 3], roof, (255, 214, 92), (112, 92, 124)[i % 3])
    _ground(brush, 210, (86, 84, 140))
    _ground(brush, 232, (58, 54, 100))
    for x in range(174, 1280, 376):
        brush.shape(box(x - 4, 84, x + 4, 236), (40, 34, 70))
        brush.shape(ellipse(x, 80, 17), (255, 236, 140))


def _night_front(brush: Brush) -> None:
    for x in range(-280, 1700, 470):
        _bush(brush, x, 290, 46, (30, 30, 66))


def _beach_far(brush: Brush) -> None:
    _fill(brush, 0, 320, (255, 206, 160))
    _fill(brush, 0, 70, (252, 160, 132))
    brush.shape(ellipse(640, 128, 48), (255, 240, 150))
    _cloud(brush, 330, 54, 22, (255, 226, 206))
    _cloud(brush, 900, 70, 25, (255, 226, 206))
    brush.shape(box(LEFT, 132, RIGHT, 320), (52, 168, 200))
    for x, y in ((300, 150), (470, 168), (640, 148), (800, 172), (980, 152)):
        brush.shape(ellipse(x, y, 44, 3.6), (170, 232, 240), 0)
    for x in (440, 860):
        brush.shape(smooth([(x - 34, 128), (x + 34, 128), (x + 22, 144), (x - 22, 144)]), WHITE)
        brush.shape(np.array([(x, 82), (x + 30, 122), (x, 122)], float), (240, 96, 80))


def _beach_near(brush: Brush) -> None:
    crest = [(x, 202 + 7 * np.sin(x / 52)) for x in np.linspace(LEFT, RIGHT, 90)]
    brush.shape(np.array([*crest, (RIGHT, 320), (LEFT, 320)]), (246, 222, 150))
    for x, way in ((90, 1), (520, -1), (800, 1), (1200, -1)):
        _palm(brush, x, way)
    _parasol(brush, 330)
    _parasol(brush, 1010)
    for x in range(-380, 1700, 210):
        brush.shape(ellipse(x, 266, 14, 6), (230, 150, 120), 0.7)


def _palm(brush: Brush, x: float, way: int) -> None:
    trunk = [(x, 216), (x + 5 * way, 170), (x + 18 * way, 124), (x + 36 * way, 84)]
    brush.limb(trunk, 8, (170, 112, 70))
    for angle in (-2.9, -2.2, -1.2, -0.4, 0.3):
        leaf = [(0, -7), (36, -16), (72, 4), (36, 8), (0, 7)]
        brush.at(x + 36 * way, 82, angle).shape(smooth(leaf), (60, 160, 92))


def _parasol(brush: Brush, x: float) -> None:
    brush.shape(box(x - 4, 120, x + 4, 222), WHITE)
    bow = np.linspace(-np.pi, 0, 13)
    brush.shape(np.stack([x + 66 * np.cos(bow), 132 + 52 * np.sin(bow)], 1), (70, 130, 214))
    brush.shape(np.stack([x + 24 * np.cos(bow), 132 + 50 * np.sin(bow)], 1), (250, 236, 214), 0.6)


def _beach_front(brush: Brush) -> None:
    for x in range(-240, 1700, 500):
        brush.shape(
            smooth([(x - 74, 320), (x - 50, 262), (x + 8, 246), (x + 70, 320)]), (130, 100, 110)
        )


def _winter_far(brush: Brush) -> None:
    _fill(brush, 0, 320, (186, 200, 232))
    for i, x in enumerate(range(-400, 1700, 210)):
        top = 60 + (i * 29) % 44
        brush.shape(np.array([(x - 150, 250), (x, top), (x + 150, 250)], float), (132, 150, 206))
        cap = [
            (x - 50, top + 63),
            (x, top),
            (x + 50, top + 63),
            (x + 18, top + 48),
            (x - 14, top + 66),
        ]
        brush.shape(np.array(cap, float), (244, 248, 255), 0.6)


def _winter_near(brush: Brush) -> None:
    for x, size in ((40, 1.2), (290, 1.0), (560, 1.25), (830, 1.05), (1230, 1.2)):
        _fir(brush, x, 220, size, (46, 120, 116))
    for x, wall in ((430, (206, 122, 92)), (1030, (178, 96, 110))):
        _house(brush, x, wall, (240, 246, 255), (255, 226, 120), 96)
    crest = [(x, 210 + 6 * np.sin(x / 70)) for x in np.linspace(LEFT, RIGHT, 90)]
    brush.shape(np.array([*crest, (RIGHT, 320), (LEFT, 320)]), (240, 246, 255))
    for x in range(-380, 1700, 190):
        brush.shape(ellipse(x, 262, 56, 6), (206, 220, 244), 0)
    _snowman(brush, 700)


def _snowman(brush: Brush, x: float) -> None:
    brush.shape(ellipse(x, 194, 34, 30), WHITE)
    brush.shape(ellipse(x, 146, 24, 23), WHITE)
    for side in (-8, 8):
        brush.shape(ellipse(x + side, 142, 3.4), INK, 0)
    brush.shape(np.array([(x, 148), (x + 24, 153), (x, 156)], float), (245, 140, 50), 0.7)
    brush.shape(box(x - 19, 104, x + 19, 126), mix(INK, WHITE, 0.15))


def _winter_front(brush: Brush) -> None:
    for x in range(-260, 1700, 450):
        brush.shape(ellipse(x, 312, 110, 44), (250, 252, 255))


PLACES = {
    "town": (_town_far, _town_near, _town_front),
    "park": (_park_far, _park_near, _park_front),
    "room": (_room_far, _room_near, _room_front),
    "night": (_night_far, _night_near, _night_front),
    "beach": (_beach_far, _beach_near, _beach_front),
    "winter": (_winter_far, _winter_near, _winter_front),
}
