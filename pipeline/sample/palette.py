"""Colours of the series: flat RGB, as on painted cels."""

Colour = tuple[int, int, int]

INK: Colour = (44, 28, 48)  # outlines; a warm dark violet, softer than black
WHITE: Colour = (255, 255, 255)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`first` with `share` in [0, 1] of `second`."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def shade(colour: Colour, amount: float = 0.22) -> Colour:
    """The shadow tone of a cel colour: towards the ink."""
    return mix(colour, INK, amount)


def tint(colour: Colour, amount: float = 0.3) -> Colour:
    """The light tone of a cel colour: towards white."""
    return mix(colour, WHITE, amount)
