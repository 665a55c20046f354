"""The source of clips that the settings of evaluate.py ask for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from portraitgen.runs.evaluate.sources.pair_list import pairs_by_name, pairs_from_csv
from portraitgen.runs.evaluate.sources.pairs import PairedFiles
from portraitgen.runs.evaluate.sources.source import ClipSource

PATHS = ("generated", "real", "pairs")
LENGTHS = ("exact", "shortest")


def choose_source(config: DictConfig) -> ClipSource:
    """A folder of generate.py when only `generated` is set; pairs of files with `real` or `pairs`.

    Raises:
        ValueError: the settings do not go together, or as the sources raise it.
    """
    generated = Path(config.generated)
    if config.real is None and config.pairs is None:
        for name, unset in (("fps", None), ("resize", None), ("length", "exact")):
            if config[name] != unset:
                raise ValueError(
                    f"{name}={config[name]}: clips of generate.py have the rate, length and size of what "
                    "drove them; this is for pairs of files (real=… or pairs=…)"
                )
        # Its prepared clips need Lightning: 130 MB, and seconds.
        from portraitgen.runs.evaluate.sources.samples import GeneratedSamples

        return GeneratedSamples(generated)
    if config.length not in LENGTHS:
        raise ValueError(f"length={config.length}: give one of {', '.join(LENGTHS)}")
    size = config.resize
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"resize={list(size)}: give width and height in pixels, such as [512,512]")
    if config.fps is not None and config.fps <= 0:
        raise ValueError(f"fps={config.fps}: give frames a second, such as 25")
    if config.real is not None and not Path(config.real).is_dir():
        raise ValueError(f"real={config.real}: no such folder")
    if config.get("out") is not None and Path(config.out).resolve() in {
        Path(config[name]).resolve() for name in ("generated", "real") if config[name] is not None
    }:
        raise ValueError(f"out={config.out} holds the clips themselves: give a folder for the report alone")
    if config.pairs is not None:
        real = None if config.real is None else Path(config.real)
        pairs = pairs_from_csv(Path(config.pairs), generated=generated, real=real)
    else:
        pairs = pairs_by_name(generated, Path(config.real))
    folders = {name: config[name] and str(Path(config[name]).resolve()) for name in PATHS}
    return PairedFiles(
        pairs,
        fps=config.fps,
        size=None if size is None else (size[0], size[1]),
        length=config.length,
        place={
            **folders,
            "fps": config.fps,
            "resize": None if size is None else list(size),
            "length": config.length,
        },
    )


def source_of_results(place: Mapping[str, Any]) -> ClipSource:
    """The source that results were taken from, as their protocol states it.

    Raises:
        ValueError: it is no longer there.
    """
    unset = {"real": None, "pairs": None, "fps": None, "resize": None, "length": "exact"}
    return choose_source(OmegaConf.create({**unset, **place}))
