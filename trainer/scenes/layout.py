# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What a drawn scene holds: a place, two related things, perhaps others; and the scenes that differ in one detail."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, permutations
from math import dist
from random import Random

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "ring")
RADIUS = {"small": 0.095, "large": 0.16}  # of the image side
PLACES = ("meadow", "night", "beach", "snow")
SWAPS = ("colours", "relation", "sizes")
CHANGES = (*SWAPS, "colour", "shape", "size")
CROWDED_CHANGES = CHANGES[:-1]


@dataclass(frozen=True)
class Thing:
    """One object: its centre `x`, `y` in fractions of the image side, from the top left."""

    colour: str
    shape: str
    size: str
    x: float
    y: float

    def box(self, image_size: int) -> list[float]:
        """Return the corners x1, y1, x2, y2 in pixels."""
        radius = RADIUS[self.size]
        corners = (self.x - radius, self.y - radius, self.x + radius, self.y + radius)
        return [round(corner * image_size, 2) for corner in corners]


@dataclass(frozen=True)
class Scene:
    """A place with things; captions relate the first two. `decor` seeds clouds, stars and waves."""

    place: str
    things: tuple[Thing, ...]
    decor: int

    @property
    def relation(self) -> str:
        """Where the first thing is, seen from the second: left, right, above or below."""
        first, second = self.things[:2]
        dx, dy = first.x - second.x, first.y - second.y
        if abs(dx) > abs(dy):
            return "left" if dx < 0 else "right"
        return "above" if dy < 0 else "below"

    @property
    def signature(self) -> tuple[object, ...]:
        """What every caption tells; sizes only where two scenes differ in nothing else."""
        pair = [(thing.colour, thing.shape) for thing in self.things[:2]]
        if self.relation in ("right", "below"):
            pair.reverse()
        return self.place, self.relation in ("left", "right"), *pair


def sample_scene(random: Random) -> Scene:
    """Draw a scene at random: two things of different colour, shape and size, and every second time a third."""
    count = random.choice((2, 3))
    colours = random.sample(COLOURS, count)
    shapes = random.sample(SHAPES, count)
    sizes = [*random.sample(tuple(RADIUS), 2), "small"][:count]
    spots = _pair_spots(random)
    if count == 3:
        spots.append(_free_spot(random, spots))
    things = tuple(
        Thing(colour, shape, size, x, y)
        for colour, shape, size, (x, y) in zip(colours, shapes, sizes, spots, strict=True)
    )
    return Scene(random.choice(PLACES), things, random.randrange(2**31))


def sample_sized_scene(random: Random) -> Scene:
    """Draw a scene of three things, of which the third is as often large as small and has room to be either."""
    sizes = [*random.sample(tuple(RADIUS), 2), random.choice(tuple(RADIUS))]
    kinds = zip(random.sample(COLOURS, 3), random.sample(SHAPES, 3), sizes, _roomy_spots(random), strict=True)
    things = tuple(Thing(colour, shape, size, *spot) for colour, shape, size, spot in kinds)
    return Scene(random.choice(PLACES), things, random.randrange(2**31))


def sample_crowded_scene(random: Random) -> Scene:
    """Draw a scene of three to five things that share colours and shapes, so that only both together name one.

    The first two differ in colour, shape and size. No other has the colour of one and the shape of the other, so that
    a scene with swapped colours holds no thing that a caption of this one names by colour and shape.
    """
    colours, shapes = random.sample(COLOURS, 4), random.sample(SHAPES, 4)
    pair = list(zip(colours[:2], shapes[:2], random.sample(tuple(RADIUS), 2), strict=True))
    others = [(colour, shape, "small") for colour in colours for shape in shapes if (colour, shape) not in
              [(a, b) for a in colours[:2] for b in shapes[:2]]]  # fmt: skip
    kinds = [*pair, *random.sample(others, random.randint(1, 3))]
    while (spots := _crowded_spots(random, len(kinds))) is None:
        pass
    things = tuple(Thing(*kind, *spot) for kind, spot in zip(kinds, spots, strict=True))
    return Scene(random.choice(PLACES), things, random.randrange(2**31))


def change_scene(scene: Scene, change: str) -> Scene:
    """Return the scene that differs in exactly one detail.

    Args:
        scene: Any scene; for `"size"` one of [`sample_sized_scene`].
        change: Of the first two things, `"colours"` swaps their colours, `"relation"` their places, `"sizes"` their
            sizes; `"colour"` gives the first thing a colour that the scene does not have, `"shape"` such a shape;
            `"size"` gives the third thing its other size.
    """
    if change == "size":
        *others, third = scene.things
        return replace(scene, things=(*others, replace(third, size="small" if third.size == "large" else "large")))
    first, second = scene.things[:2]
    if change == "colours":
        pair = replace(first, colour=second.colour), replace(second, colour=first.colour)
    elif change == "relation":
        pair = replace(first, x=second.x, y=second.y), replace(second, x=first.x, y=first.y)
    elif change == "sizes":
        pair = replace(first, size=second.size), replace(second, size=first.size)
    elif change == "colour":
        pair = replace(first, colour=_new(COLOURS, {thing.colour for thing in scene.things}, scene)), second
    elif change == "shape":
        pair = replace(first, shape=_new(SHAPES, {thing.shape for thing in scene.things}, scene)), second
    else:
        raise ValueError(f"Expected a change among {CHANGES}, found {change!r}.")
    return replace(scene, things=(*pair, *scene.things[2:]))


def crowded_look_alikes(scene: Scene, count: int, random: Random) -> list[tuple[str, Scene]]:
    """Return up to `count` scenes that differ from a crowded one in one detail, each with the name of its change.

    Every kind of change comes once, in random order, `"colours"` as a new order of the colours of all things; then
    further orders of them. No two scenes hold the same things, but for the changes of relation and sizes.
    """
    orders = _recoloured(scene, random)
    looks: list[tuple[str, Scene]] = []
    for change in random.sample(CROWDED_CHANGES, len(CROWDED_CHANGES)):
        if change != "colours":
            looks.append((change, change_scene(scene, change)))
        elif (other := next(orders, None)) is not None:
            looks.append((change, other))
    return [*looks, *(("colours", other) for other in islice(orders, max(0, count - len(looks))))][:count]


def _recoloured(scene: Scene, random: Random) -> Iterator[Scene]:
    colours = list(permutations(thing.colour for thing in scene.things))
    random.shuffle(colours)
    told = {_kinds(scene)}
    for order in colours:
        things = tuple(replace(thing, colour=colour) for thing, colour in zip(scene.things, order, strict=True))
        other = replace(scene, things=things)
        if len(_kinds(other)) == len(things) and _kinds(other) not in told:  # no two things alike: words tell each
            told.add(_kinds(other))
            yield other


def _kinds(scene: Scene) -> frozenset[tuple[str, str]]:
    return frozenset((thing.colour, thing.shape) for thing in scene.things)


def _new(values: tuple[str, ...], taken: set[str], scene: Scene) -> str:
    return Random(scene.decor).choice([value for value in values if value not in taken])


def _pair_spots(random: Random) -> list[tuple[float, float]]:
    across = random.uniform(0.38, 0.62)
    spots = [(along + random.uniform(-0.04, 0.04), across + random.uniform(-0.05, 0.05)) for along in (0.26, 0.74)]
    random.shuffle(spots)
    return spots if random.random() < 0.5 else [(y, x) for x, y in spots]


def _free_spot(random: Random, taken: list[tuple[float, float]]) -> tuple[float, float]:
    # Clear of large things at both spots, so that swaps never make things overlap.
    reach = RADIUS["small"] + RADIUS["large"] + 0.05
    while True:
        x, y = random.uniform(0.14, 0.86), random.uniform(0.14, 0.86)
        if all((x - left) ** 2 + (y - top) ** 2 > reach**2 for left, top in taken):
            return x, y


def _roomy_spots(random: Random) -> list[tuple[float, float]]:
    """Return places for three large things that do not touch."""
    while True:
        pair = _pair_spots(random)
        for _ in range(50):
            spot = random.uniform(0.165, 0.835), random.uniform(0.165, 0.835)
            if all(dist(spot, other) > 2 * RADIUS["large"] + 0.02 for other in pair):
                return [*pair, spot]


def _crowded_spots(random: Random, count: int) -> list[tuple[float, float]] | None:
    """Return places for the first two things and for the small ones beside them, or `None` where room is out."""
    pair = _pair_spots(random)
    spots = list(pair)
    for _ in range(200):
        if len(spots) == count:
            return spots
        spot = _free_spot(random, pair)
        if all(dist(spot, other) > 2 * RADIUS["small"] + 0.04 for other in spots[2:]):
            spots.append(spot)
    return None
