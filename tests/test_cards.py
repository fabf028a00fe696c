"""Every data set has a card, and card and recipe say the same."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from snnbench.data_prep.recipe import load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_a_card_names_what_its_recipe_says(name: str) -> None:
    recipe = load_recipe(name)
    card = resources.files("snnbench.data_prep").joinpath("cards", f"{name}.md")
    assert card.is_file(), f"data_prep/cards/{name}.md is missing"
    text = card.read_text("utf-8")
    assert re.match(rf"# {re.escape(name)}\b", text)
    words = re.sub(r"\s+", " ", text.replace('"', ""))
    assert recipe.licence in words
    assert recipe.citation in words
    assert f"snnbench data get {name}" in words or f"snnbench data convert {name}" in words


def test_every_card_belongs_to_a_recipe() -> None:
    cards = resources.files("snnbench.data_prep").joinpath("cards").iterdir()
    assert {path.name.removesuffix(".md") for path in cards} <= set(recipe_names())
