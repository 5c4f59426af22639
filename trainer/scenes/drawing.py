# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Scenes drawn with Pillow: large first, then scaled down, so that edges are smooth."""

from collections.abc import Callable
from functools import cache
from math import cos, pi, sin
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from .layout import RADIUS, Scene, Thing

Colour = tuple[int, ...]  # red, green, blue in 0..255

OVERSAMPLING = 3
HORIZON = 0.62
RGB: dict[str, Colour] = {
    "red": (222, 45, 45),
    "orange": (247, 130, 24),
    "yellow": (250, 210, 30),
    "green": (38, 150, 62),
    "blue": (33, 100, 230),
    "purple": (138, 62, 205),
    "pink": (246, 140, 195),
}
# Sky at the top and at the horizon, ground at the horizon and at the bottom.
GROUNDS: dict[str, tuple[Colour, Colour, Colour, Colour]] = {
    "meadow": ((132, 190, 238), (214, 236, 250), (158, 200, 120), (118, 168, 88)),
    "night": ((18, 22, 58), (56, 62, 118), (42, 52, 72), (26, 34, 50)),
    "beach": ((120, 200, 236), (206, 238, 246), (240, 220, 170), (222, 194, 136)),
    "snow": ((168, 186, 206), (220, 228, 238), (248, 250, 253), (226, 234, 244)),
}


def draw_scene(scene: Scene, image_size: int) -> Image.Image:
    """Draw a scene as an RGB picture of `image_size` x `image_size` pixels."""
    side = image_size * OVERSAMPLING
    canvas = _background(scene, side)
    for thing in scene.things:
        _draw_thing(canvas, thing)
    return canvas.reduce(OVERSAMPLING)


@cache
def _gradient_mask(width: int, height: int) -> Image.Image:
    return Image.linear_gradient("L").resize((width, height))


def _gradient(width: int, height: int, top: Colour, bottom: Colour) -> Image.Image:
    mask = _gradient_mask(width, height)
    return Image.composite(Image.new("RGB", mask.size, bottom), Image.new("RGB", mask.size, top), mask)


def _background(scene: Scene, side: int) -> Image.Image:
    sky_top, sky_low, ground_top, ground_low = GROUNDS[scene.place]
    horizon = round(side * HORIZON)
    canvas = _gradient(side, side, sky_top, sky_low)
    random = Random(scene.decor)
    draw = ImageDraw.Draw(canvas)
    _DECORS[scene.place](draw, side, random)
    ground = _gradient(side, side - horizon, ground_top, ground_low)
    canvas.paste(ground, (0, horizon))
    if scene.place == "snow":
        _dots(draw, side, random, count=26, span=(0.0, 1.0), radius=(0.006, 0.011), colour=(255, 255, 255))
    return canvas


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour | int) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _dots(
    draw: ImageDraw.ImageDraw,
    side: int,
    random: Random,
    *,
    count: int,
    span: tuple[float, float],
    radius: tuple[float, float],
    colour: Colour,
) -> None:
    for _ in range(count):
        x, y = random.random() * side, random.uniform(*span) * side
        _disc(draw, x, y, random.uniform(*radius) * side, colour)


def _cloud(draw: ImageDraw.ImageDraw, side: int, random: Random, colour: Colour) -> None:
    x, y = random.uniform(0.1, 0.9) * side, random.uniform(0.08, 0.3) * side
    for shift, radius in ((-0.06, 0.035), (0.0, 0.05), (0.06, 0.035)):
        _disc(draw, x + shift * side, y, radius * side, colour)


def _meadow(draw: ImageDraw.ImageDraw, side: int, random: Random) -> None:
    _disc(draw, random.choice((0.1, 0.9)) * side, 0.1 * side, 0.07 * side, (255, 244, 190))
    for _ in range(2):
        _cloud(draw, side, random, (255, 255, 255))


def _night(draw: ImageDraw.ImageDraw, side: int, random: Random) -> None:
    _dots(draw, side, random, count=22, span=(0.0, HORIZON), radius=(0.003, 0.006), colour=(235, 235, 250))
    x = random.choice((0.1, 0.9)) * side
    _disc(draw, x, 0.1 * side, 0.06 * side, (246, 244, 222))
    _disc(draw, x + 0.025 * side, 0.09 * side, 0.05 * side, (24, 28, 66))


def _beach(draw: ImageDraw.ImageDraw, side: int, random: Random) -> None:
    _cloud(draw, side, random, (255, 255, 255))
    draw.rectangle((0, 0.46 * side, side, side), fill=(70, 158, 198))
    for level in (0.50, 0.55):
        x = random.uniform(0.05, 0.7) * side
        draw.line((x, level * side, x + 0.22 * side, level * side), fill=(196, 230, 240), width=max(1, side // 110))


def _snow(draw: ImageDraw.ImageDraw, side: int, random: Random) -> None:
    _cloud(draw, side, random, (236, 240, 246))


_DECORS: dict[str, Callable[[ImageDraw.ImageDraw, int, Random], None]] = {
    "meadow": _meadow,
    "night": _night,
    "beach": _beach,
    "snow": _snow,
}


def _outline(shape: str) -> list[tuple[float, float]]:
    """Corners in [-1, 1] of the shapes that are polygons."""
    if shape == "square":
        return [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
    if shape == "triangle":
        return [(0.0, -0.95), (0.98, 0.8), (-0.98, 0.8)]
    if shape == "diamond":
        return [(0.0, -1.0), (0.75, 0.0), (0.0, 1.0), (-0.75, 0.0)]
    if shape == "star":
        points = [(1.0 if corner % 2 == 0 else 0.45, corner * pi / 5) for corner in range(10)]
        return [(length * sin(turn), -length * cos(turn)) for length, turn in points]
    turns = [step * pi / 30 for step in range(60)]  # heart
    return [(sin(t) ** 3, -(13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t)) / 16.5 - 0.1) for t in turns]


def _mask(shape: str, radius: float, side: int, grow: float) -> Image.Image:
    """Shape of the given radius, grown by a rim, in the middle of a square tile; all in pixels."""
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    centre = side / 2
    if shape in ("circle", "ring"):
        _disc(draw, centre, centre, radius + grow, 255)
        if shape == "ring":
            _disc(draw, centre, centre, 0.5 * radius - grow, 0)
        return mask
    corners = [(centre + radius * across, centre + radius * down) for across, down in _outline(shape)]
    draw.polygon(corners, fill=255)
    if grow:
        draw.line([*corners, *corners[:2]], fill=255, width=round(2 * grow), joint="curve")
    return mask


@cache
def _stamp(shape: str, colour: str, radius: float, rim: float) -> tuple[Image.Image, Image.Image, Image.Image]:
    """Shadow mask, rim mask and the shaded thing itself (RGBA) on square tiles of one size."""
    tile = 2 * round(radius + 5 * rim)
    outer = _mask(shape, radius, tile, rim)
    shadow = ImageChops.offset(outer, round(rim), round(1.7 * rim)).filter(ImageFilter.GaussianBlur(rim))
    bright: Colour = tuple(round(value + (255 - value) * 0.28) for value in RGB[colour])
    dark: Colour = tuple(round(value * 0.86) for value in RGB[colour])
    body = _gradient(tile, tile, bright, dark)
    body.putalpha(_mask(shape, radius, tile, 0))
    return shadow.point([round(value * 0.35) for value in range(256)]), outer, body


def _draw_thing(canvas: Image.Image, thing: Thing) -> None:
    side = canvas.width
    shadow, rim, body = _stamp(thing.shape, thing.colour, RADIUS[thing.size] * side, 0.013 * side)
    corner = (round(thing.x * side - rim.width / 2), round(thing.y * side - rim.height / 2))
    canvas.paste((0, 0, 0), (*corner, corner[0] + rim.width, corner[1] + rim.height), shadow)
    canvas.paste((255, 255, 255), (*corner, corner[0] + rim.width, corner[1] + rim.height), rim)
    canvas.paste(body, corner, body)
