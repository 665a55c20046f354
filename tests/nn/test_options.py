"""Misspelt options are named, with what was meant."""

import pytest

from portraitgen.nn.options import reject_unknown


def test_known_options_pass():
    reject_unknown("unet", {"in_channels": 4}, ["in_channels", "out_channels"])


def test_a_misspelling_is_named_with_its_place_and_a_suggestion():
    with pytest.raises(ValueError, match=r"^unet\.in_chanels: unknown option; did you mean 'in_channels'\?$"):
        reject_unknown("unet", {"in_chanels": 4}, ["out_channels", "in_channels"])


def test_without_a_likely_meaning_the_options_are_listed():
    with pytest.raises(ValueError, match=r"^unet\.x: unknown option; known options: depth, width$"):
        reject_unknown("unet", {"x": 1}, ["width", "depth"])


def test_all_unknown_keys_are_listed() -> None:
    with pytest.raises(ValueError, match=r"(?s)unet\.deph.*unet\.widht"):
        reject_unknown("unet", {"deph": 1, "widht": 2}, ["depth", "width"])
