"""Graders out of the configuration: built, skipped for want of weights, or refused."""

import pytest
from omegaconf import OmegaConf

from portraitgen.faces.dlib import DlibBackend
from portraitgen.metrics.checks import Check
from portraitgen.metrics.grader import MissingWeights
from portraitgen.metrics.graders.identity import BACKEND, IdentityGrader
from portraitgen.metrics.graders.pixels import METRICS, PixelGrader
from portraitgen.runs.evaluate.graders import build_graders, check_names, figures_of, refuse_own_judges

PIXELS = {"_target_": "portraitgen.metrics.graders.pixels.PixelGrader"}


class Starving:
    """A grader whose weights are never there."""

    def __init__(self, weights: str | None = None) -> None:
        raise MissingWeights(
            weights, file="net.pth", origin="https://example.org", licence="MIT", setting="weights"
        )


def node(**settings):
    return {"_target_": f"{__name__}.Starving", **settings}


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    """Hydra finds the class above by its name, whatever pytest calls this module."""
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules[Starving.__module__])


def test_missing_weights_skip_a_grader_and_say_how_to_get_them():
    config = OmegaConf.create({"pixels": PIXELS, "sync": node(), "off": None})
    graders, skipped = build_graders(config, strict=False)
    assert list(graders) == ["pixels"]
    assert skipped == {
        "sync": "metrics.graders.sync.weights is not set; fetch net.pth from https://example.org "
        "(licence: MIT) and set metrics.graders.sync.weights to its path"
    }
    _, skipped = build_graders(
        OmegaConf.create({"pixels": PIXELS, "sync": node(weights="gone.pth")}), strict=False
    )
    assert skipped["sync"].startswith("metrics.graders.sync.weights=gone.pth: no such file; fetch net.pth")


def test_strict_makes_missing_weights_an_error():
    with pytest.raises(ValueError, match=r"strict=true, and weights are missing:\n  sync: metrics\.graders"):
        build_graders(OmegaConf.create({"pixels": PIXELS, "sync": node()}), strict=True)


def test_nothing_left_to_grade_is_an_error():
    for config in ({}, {"pixels": None}, {"sync": node()}):
        with pytest.raises(ValueError, match=r"metrics\.graders leaves nothing to grade"):
            build_graders(OmegaConf.create(config), strict=False)


def test_two_graders_may_not_give_one_figure():
    with pytest.raises(ValueError, match="both a and b give 'psnr'"):
        figures_of({"a": PixelGrader(), "b": PixelGrader()})


def test_checks_name_figures_that_are_given():
    check_names([Check("psnr", "copy_reference")], METRICS, [])
    with pytest.raises(ValueError, match="no grader gives 'psrn'; did you mean 'psnr'"):
        check_names([Check("psrn", "copy_reference")], METRICS, [])
    check_names([Check("sync_c", "copy_reference")], METRICS, ["sync"])


def test_identity_is_not_graded_by_the_network_that_the_loss_looked_with():
    backend = DlibBackend()
    graders = {"pixels": PixelGrader(), "person": IdentityGrader("dlib")}
    digest = graders["person"].recognizer.digest
    refuse_own_judges(graders, {}, backend)
    refuse_own_judges(graders, {"0" * 64: "dlib"}, backend)  # other weights of the same kind
    said = rf"graders\.person looks with dlib \(SHA-256 {digest}\), and so does .*graders\.person=null"
    with pytest.raises(ValueError, match=said):
        refuse_own_judges(graders, {digest: "dlib"}, backend)
    with pytest.raises(ValueError, match="person looks with dlib"):
        refuse_own_judges(graders, {digest: "renamed"}, backend)
    # The face backend has an embedding of its own, of which the name alone is known.
    own = {"person": IdentityGrader(BACKEND)}
    refuse_own_judges(own, {digest: "mobileface_v2"}, backend)
    with pytest.raises(ValueError, match="SHA-256 unknown"):
        refuse_own_judges(own, {digest: "dlib"}, backend)
