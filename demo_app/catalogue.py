"""What the shop sells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Plant(NamedTuple):
    """One article; `sku` is also the name of its picture."""

    sku: str
    name: str
    about: str
    price: int
    """Whole euros."""


class Line(NamedTuple):
    """One line of a cart."""

    plant: Plant
    number: int

    @property
    def total(self) -> int:
        return self.plant.price * self.number


PLANTS = (
    Plant("snake", "Snake plant", "Hard to kill. Go ahead and try.", 22),
    Plant("aloe", "Aloe vera", "Heals itself, leaf by leaf.", 12),
    Plant("monstera", "Monstera", "Split leaves, one root.", 29),
    Plant("cactus", "Golden barrel", "Weeks without water, no loss.", 14),
    Plant("fern", "Boston fern", "Comes back from a single frond.", 18),
    Plant("rubber", "Rubber tree", "Bends, and returns to its place.", 34),
)

BY_SKU = {plant.sku: plant for plant in PLANTS}

MOST = 99
"""Of one plant in a cart."""


def lines(cart: Mapping[str, int]) -> list[Line]:
    """The cart's lines in the catalogue's order; what is not sold any more is left out."""
    return [Line(plant, cart[plant.sku]) for plant in PLANTS if cart.get(plant.sku)]
