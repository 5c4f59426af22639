# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""True captions of drawn scenes, in several wordings."""

from collections.abc import Sequence
from random import Random

from .layout import Scene, Thing

NOUNS = {"circle": ("circle", "ball"), "square": ("square", "box"), "ring": ("ring", "hoop")}
SIZES = {"small": ("small", "little"), "large": ("large", "big")}
RELATIONS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
SIDES = {"left": "on the left", "right": "on the right", "above": "at the top", "below": "at the bottom"}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
PLACES = {
    "meadow": ("on a sunny meadow", "in the green grass"),
    "night": ("at night", "in the moonlight"),
    "beach": ("at the beach", "by the sea"),
    "snow": ("in the snow", "on a winter day"),
}
TEMPLATES = (
    "{a} {relation} {b} {place}{more}.",
    "{a} is {relation} {b} {place}{more}.",
    "{place}, {a} {relation} {b}{more}.",
    "{place} there is {a} {here} and {b} {there}{more}.",
    "{a} {here}, {b} {there}, {place}{more}.",
)


def write_captions(
    scene: Scene, count: int, random: Random, *, with_sizes: bool = False, with_others: bool = False
) -> list[str]:
    """Write different captions that name the place, the first two things with their colours, and their relation.

    Args:
        scene: The scene.
        count: Number of captions, at most 16.
        random: Source of the choices.
        with_sizes: Name the sizes in every caption, not only now and then.
        with_others: Name all other things in every caption, in random order, not all or none.

    Raises:
        ValueError: When more captions are asked for than are surely different.
    """
    if not 1 <= count <= 16:
        raise ValueError(f"Expected 1 to 16 captions per scene, found {count}.")
    captions: dict[str, None] = {}
    while len(captions) < count:
        captions[_caption(scene, random, with_sizes, with_others)] = None
    return list(captions)


def _caption(scene: Scene, random: Random, with_sizes: bool, with_others: bool) -> str:
    (a, b), relation = scene.things[:2], scene.relation
    if random.random() < 0.5:
        a, b, relation = b, a, OPPOSITE[relation]
    sized = with_sizes or random.random() < 0.5
    others: Sequence[Thing] = scene.things[2:]
    if with_others:
        others = random.sample(others, len(others))
    elif random.random() >= 0.5:
        others = ()
    text = random.choice(TEMPLATES).format(
        a=_describe(a, random, sized),
        b=_describe(b, random, sized),
        relation=random.choice(RELATIONS[relation]),
        here=SIDES[relation],
        there=SIDES[OPPOSITE[relation]],
        place=random.choice(PLACES[scene.place]),
        more="".join(f", and {_describe(thing, random, sized)} nearby" for thing in others),
    )
    return text[0].upper() + text[1:]


def _describe(thing: Thing, random: Random, sized: bool) -> str:
    words = [random.choice(SIZES[thing.size])] if sized else []
    words += [thing.colour, random.choice(NOUNS.get(thing.shape, (thing.shape,)))]
    return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])
