"""Losses that a configuration can name, for tests of the commands."""

import sys
import types

import pytest

from portraitgen.losses.loss import ForwardPass, Loss, LossValue
from portraitgen.losses.mean import Mean

MODULE = "portraitgen.losses.toy"


@pytest.fixture
def toy_losses(monkeypatch):
    """Name of a module, there for the length of a test, with the losses Contrast and Routing."""

    class Contrast(Loss):
        """Wants the pictures of the clean estimate to have the spread of the true ones."""

        figures = ("spread",)

        def forward(self, seen: ForwardPass) -> LossValue:
            pictures = seen.decode(seen.clean_estimate)
            spread = pictures.flatten(1).std(1)
            wanted = seen.batch["frames"].flatten(1).std(1)
            return LossValue(Mean.over((spread - wanted).square()), {"spread": Mean.over(spread.detach())})

    class Routing(Contrast):
        needs = ("router_logits",)

    module = types.ModuleType(MODULE)
    for each in (Contrast, Routing):
        each.__module__, each.__qualname__ = MODULE, each.__name__
        setattr(module, each.__name__, each)
    monkeypatch.setitem(sys.modules, MODULE, module)
    return MODULE
