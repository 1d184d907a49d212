"""The places of the series: what is painted on each layer, in world units.

Worlds are 1280 units wide and 288 high, feet stand at about y = 250. Every place has a colour
of its own, so that a cut from one to another is plain to see. Layers are painted a little wider
than the world, because near things move more than the camera. First come the things that
several layers show, then a function a place, which paints on the brush of each layer.
"""

import numpy as np

from pipeline.sample.drawing import INK, WHITE, Brush, Colour, bow, box, ellipse, mix, shade, smooth

LEFT, RIGHT, BOTTOM = -420.0, 1700.0, 320.0  # painted range, for all depths


def strip(top: float, bottom: float = BOTTOM) -> np.ndarray:
    return box(LEFT, top, RIGHT, bottom)


def drifts(y: float, height: float, width: float) -> list:
    """Ground with a wavy upper edge."""
    crest = [(x, y + height * np.sin(x / width)) for x in np.linspace(LEFT, RIGHT, 90)]
    return [*crest, (RIGHT, BOTTOM), (LEFT, BOTTOM)]


def hills(brush: Brush, base: float, height: float, width: float, colour: Colour, shift=0.0):
    """A row of round hills of uneven height."""
    for i, x in enumerate(np.arange(LEFT + shift, RIGHT, width)):
        tall = height * (1.0, 0.7, 1.25, 0.85)[i % 4]
        brush.shape(ellipse(x, base, width * 0.68, tall), colour)


def cloud(brush: Brush, x: float, y: float, size: float, colour: Colour = WHITE):
    puffs = [(-1.6, 0.2), (-1.0, -0.5), (0, -0.9), (1.0, -0.4), (1.6, 0.2), (0.8, 0.5), (-0.8, 0.5)]
    brush.at(x, y, size=size).shape(smooth(puffs), colour, 0.7)


def house(brush: Brush, x: float, wall: Colour, roof: Colour, glass: Colour, tall: float):
    house = brush.at(x, 212)
    house.shape(box(-62, -tall, 62, 0), wall)
    house.shape([(-78, 4 - tall), (0, -52 - tall), (78, 4 - tall)], roof)
    for side in (-34, 34):
        house.shape(box(side - 17, 20 - tall, side + 17, 54 - tall), glass)
        house.stroke([(side, 20 - tall), (side, 54 - tall)], 0.7)
    house.shape(box(-16, -48, 16, 0), shade(roof, 0.25))


def tree(brush: Brush, x: float, base: float, size: float, leaf: Colour):
    tree = brush.at(x, base, size=size)
    tree.shape(box(-7, -60, 7, 0), (140, 86, 52))
    crown = [(-46, -70), (-40, -110), (0, -140), (40, -112), (46, -72), (20, -50), (-20, -50)]
    tree.shape(smooth(crown), leaf)
    light = [(-26, -86), (-20, -112), (2, -120), (-4, -92)]
    tree.shape(smooth(light), mix(leaf, WHITE, 0.25), 0)


def bush(brush: Brush, x: float, y: float, size: float, leaf: Colour):
    puffs = [(-1.7, 0.6), (-1.2, -0.3), (-0.4, -0.8), (0.5, -0.8), (1.3, -0.2), (1.7, 0.6)]
    brush.at(x, y, size=size).shape(smooth([*puffs, (0, 0.9)]), leaf)


def town(far: Brush, near: Brush, front: Brush):
    far.shape(strip(0), (122, 206, 246), 0)
    for x, y, size in ((60, 50, 22), (330, 76, 17), (560, 40, 25), (840, 66, 20), (1100, 46, 23)):
        cloud(far, x, y, size)
    hills(far, 236, 100, 210, (128, 200, 140))

    walls = ((252, 226, 170), (240, 150, 120), (196, 220, 240), (250, 200, 210), (214, 232, 160))
    roofs = ((208, 72, 60), (96, 92, 160), (226, 128, 48), (70, 130, 130), (150, 70, 100))
    for i, x in enumerate(range(80, 1280, 188)):
        house(near, x, walls[i % 5], roofs[i * 2 % 5], (110, 170, 214), (112, 92, 124)[i % 3])
        if i % 2:
            tree(near, x + 94, 214, 0.72, (84, 172, 84))
    near.shape(strip(210), (228, 214, 196))
    near.shape(strip(232), (150, 146, 164))
    for x in range(-400, 1700, 96):
        near.shape(box(x, 268, x + 48, 275), (250, 240, 200), 0)

    for x in range(-260, 1700, 520):  # street lamps
        front.shape(box(x - 6, 40, x + 6, 320), (86, 90, 120))
        front.shape(box(x - 14, 250, x + 14, 320), (86, 90, 120))
        front.shape(ellipse(x, 30, 21), (255, 236, 150))


def park(far: Brush, near: Brush, front: Brush):
    far.shape(strip(0), (196, 236, 214), 0)
    far.shape(ellipse(760, 64, 34), (255, 226, 96))
    cloud(far, 240, 60, 22)
    cloud(far, 980, 84, 19)
    hills(far, 220, 120, 300, (120, 204, 150))
    hills(far, 236, 80, 230, (84, 178, 120), 110)

    near.shape(strip(206), (116, 204, 84))
    near.shape(strip(262), (98, 184, 74), 0)
    near.shape(ellipse(620, 232, 150, 17), (92, 190, 236))  # a pond
    near.shape(ellipse(590, 228, 46, 4), (190, 232, 250), 0)
    for x, size in ((60, 1.25), (330, 1.05), (870, 1.3), (1140, 1.1)):
        tree(near, x, 222, size, (52, 150, 82))
    for x in (432, 508):  # a bench
        near.shape(box(x - 4, 196, x + 4, 222), (90, 70, 70))
    near.shape(box(420, 170, 520, 182), (190, 116, 66))
    near.shape(box(420, 190, 520, 200), (190, 116, 66))
    bush(near, 1010, 216, 22, (70, 168, 74))
    for i, x in enumerate(range(-380, 1700, 118)):
        petal = ((250, 110, 130), (255, 220, 80), WHITE)[i % 3]
        near.shape(ellipse(x, 268 + 10 * (i % 2), 7), petal, 0.7)

    for x in range(-300, 1700, 430):
        bush(front, x, 284, 42, (34, 116, 66))


def room(far: Brush, near: Brush, front: Brush):
    far.shape(strip(0), (250, 196, 136), 0)
    for x in range(-400, 1700, 120):
        far.shape(box(x, 0, x + 52, 320), (246, 182, 118), 0)

    for x in (200, 760, 1160):
        window = near.at(x, 0)
        window.shape(box(-60, 34, 60, 144), (250, 244, 230))
        window.shape(box(-50, 44, 50, 134), (140, 214, 246), 0.8)
        cloud(window, -14, 78, 13)
        window.stroke([(0, 44), (0, 134)])
        for side in (-1, 1):
            curtain = [(-76, 24), (-50, 24), (-54, 90), (-42, 150), (-76, 150)]
            window.shape([(side * cx, cy) for cx, cy in curtain], (214, 82, 92))
    books = ((70, 130, 200), (220, 80, 70), (250, 200, 70), (90, 170, 100))
    for x in (440, 980):
        near.shape(box(x - 70, 70, x + 70, 210), (150, 92, 64))
        for row, y in enumerate((80, 142)):
            near.shape(box(x - 60, y, x + 60, y + 56), (112, 66, 54), 0.7)
            for i in range(5):
                left, top = x - 54 + i * 21 + 4 * row, y + 8 + 6 * (i % 2)
                near.shape(box(left, top, left + 18, y + 56), books[(i + row) % 4], 0.7)
    near.shape(box(550, 50, 630, 116), (226, 176, 70))  # a picture
    near.shape(box(560, 60, 620, 106), (110, 190, 170), 0.7)
    peaks = [(562, 105), (584, 74), (598, 90), (606, 82), (618, 105)]
    near.shape(peaks, (70, 120, 110), 0.6)
    near.shape(box(36, 90, 44, 212), (110, 80, 90))  # a lamp
    near.shape([(20, 56), (60, 56), (76, 104), (4, 104)], (255, 232, 140))
    near.shape(strip(208), (196, 122, 84))
    near.shape(strip(204), (236, 226, 214))
    near.shape(strip(214), (196, 122, 84))
    for x in (310, 900):  # carpets
        near.shape(ellipse(x, 258, 170, 22), (196, 66, 84))
        near.shape(ellipse(x, 258, 130, 15), (240, 150, 120), 0)

    for x in range(-200, 1700, 560):
        for lean in (-1, 0, 1):
            leaf = [(-9, 0), (-14, -50), (lean * 12, -104), (14, -50), (9, 0)]
            front.at(x, 240, lean * 0.5).shape(smooth(leaf), (60, 140, 90))
        pot = [(x - 30, 236), (x + 30, 236), (x + 22, 320), (x - 22, 320)]
        front.shape(pot, (170, 70, 60))


def night(far: Brush, near: Brush, front: Brush):
    far.shape(strip(0), (40, 44, 108), 0)
    far.shape(strip(130), (62, 62, 138), 0)
    far.shape(ellipse(640, 62, 36), (255, 240, 170))
    far.shape(ellipse(652, 54, 9), (236, 214, 140), 0)
    for i, x in enumerate(range(-380, 1700, 74)):
        far.shape(ellipse(x, 26 + (i * 53) % 104, 3.6), (255, 244, 200), 0)
    for i, x in enumerate(range(-400, 1700, 92)):
        far.shape(box(x, 110 + (i * 37) % 56, x + 92, 240), (46, 40, 92))

    walls = ((92, 76, 142), (70, 84, 150), (112, 74, 128))
    roofs = ((54, 40, 90), (70, 44, 80), (44, 52, 96))
    for i, x in enumerate(range(80, 1280, 188)):
        house(near, x, walls[i % 3], roofs[i % 3], (255, 214, 92), (112, 92, 124)[i % 3])
    near.shape(strip(210), (86, 84, 140))
    near.shape(strip(232), (58, 54, 100))
    for x in range(174, 1280, 376):  # street lamps
        near.shape(box(x - 4, 84, x + 4, 236), (40, 34, 70))
        near.shape(ellipse(x, 80, 17), (255, 236, 140))

    for x in range(-280, 1700, 470):
        bush(front, x, 290, 46, (30, 30, 66))


def beach(far: Brush, near: Brush, front: Brush):
    far.shape(strip(0), (255, 206, 160), 0)
    far.shape(strip(0, 70), (252, 160, 132), 0)
    far.shape(ellipse(640, 128, 48), (255, 240, 150))
    cloud(far, 330, 54, 22, (255, 226, 206))
    cloud(far, 900, 70, 25, (255, 226, 206))
    far.shape(strip(132), (52, 168, 200))
    for x, y in ((300, 150), (470, 168), (640, 148), (800, 172), (980, 152)):
        far.shape(ellipse(x, y, 44, 3.6), (170, 232, 240), 0)
    for x in (440, 860):  # sailing boats
        far.shape(smooth([(x - 34, 128), (x + 34, 128), (x + 22, 144), (x - 22, 144)]), WHITE)
        far.shape([(x, 82), (x + 30, 122), (x, 122)], (240, 96, 80))

    near.shape(drifts(202, 7, 52), (246, 222, 150))
    for x, way in ((90, 1), (520, -1), (800, 1), (1200, -1)):  # palms
        trunk = [(x, 216), (x + 5 * way, 170), (x + 18 * way, 124), (x + 36 * way, 84)]
        near.limb(trunk, 8, (170, 112, 70))
        for angle in (-2.9, -2.2, -1.2, -0.4, 0.3):
            leaf = [(0, -7), (36, -16), (72, 4), (36, 8), (0, 7)]
            near.at(x + 36 * way, 82, angle).shape(smooth(leaf), (60, 160, 92))
    for x in (330, 1010):  # parasols
        near.shape(box(x - 4, 120, x + 4, 222), WHITE)
        near.shape(bow(x, 132, 66, 52, np.pi / 2, 13), (70, 130, 214))
        near.shape(bow(x, 132, 24, 50, np.pi / 2, 13), (250, 236, 214), 0.6)
    for x in range(-380, 1700, 210):
        near.shape(ellipse(x, 266, 14, 6), (230, 150, 120), 0.7)

    for x in range(-240, 1700, 500):
        rock = [(x - 74, 320), (x - 50, 262), (x + 8, 246), (x + 70, 320)]
        front.shape(smooth(rock), (130, 100, 110))


def winter(far: Brush, near: Brush, front: Brush):
    far.shape(strip(0), (186, 200, 232), 0)
    for i, x in enumerate(range(-400, 1700, 210)):
        top = 60 + (i * 29) % 44
        far.shape([(x - 150, 250), (x, top), (x + 150, 250)], (132, 150, 206))
        cap = [(-50, 63), (0, 0), (50, 63), (18, 48), (-14, 66)]
        far.at(x, top).shape(cap, (244, 248, 255), 0.6)

    for x, size in ((40, 1.2), (290, 1.0), (560, 1.25), (830, 1.05), (1230, 1.2)):
        fir = near.at(x, 220, size=size)
        fir.shape(box(-6, -30, 6, 0), (120, 78, 60))
        for base, wide in ((-24, 44), (-62, 35), (-98, 25)):
            fir.shape([(-wide, base), (0, base - 58), (wide, base)], (46, 120, 116))
            snow = [(-wide * 0.42, base - 33), (0, base - 58), (wide * 0.42, base - 33)]
            fir.shape(snow, WHITE, 0.6)
    for x, wall in ((430, (206, 122, 92)), (1030, (178, 96, 110))):
        house(near, x, wall, (240, 246, 255), (255, 226, 120), 96)
    near.shape(drifts(210, 6, 70), (240, 246, 255))
    for x in range(-380, 1700, 190):
        near.shape(ellipse(x, 262, 56, 6), (206, 220, 244), 0)
    near.shape(ellipse(700, 194, 34, 30), WHITE)  # a snowman
    near.shape(ellipse(700, 146, 24, 23), WHITE)
    for x in (692, 708):
        near.shape(ellipse(x, 142, 3.4), INK, 0)
    near.shape([(700, 148), (724, 153), (700, 156)], (245, 140, 50), 0.7)
    near.shape(box(681, 104, 719, 126), mix(INK, WHITE, 0.15))

    for x in range(-260, 1700, 450):
        front.shape(ellipse(x, 312, 110, 44), (250, 252, 255))


PLACES = {
    "town": town, "park": park, "room": room, "night": night, "beach": beach, "winter": winter
}  # fmt: skip
