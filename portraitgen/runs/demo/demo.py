"""`python demo.py weights=…`: a page to try what the weights draw."""

import importlib
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig, OmegaConf

from portraitgen.runs.config.schema import PathsConfig
from portraitgen.runs.config.targets import did_you_mean
from portraitgen.runs.demo.address import check_address
from portraitgen.runs.demo.desk import Desk
from portraitgen.runs.demo.examples import read_examples
from portraitgen.runs.demo.limits import Limits
from portraitgen.runs.demo.look import Look
from portraitgen.runs.demo.offer import Offer
from portraitgen.runs.demo.sweeper import Sweeper
from portraitgen.runs.demo.typed_command import override
from portraitgen.runs.demo.visits import Visits
from portraitgen.runs.generate.loaded import Chosen, choose, load

log = logging.getLogger(__name__)

_OWN = ("weights", "host", "port", "password", "share", "limits", "examples", "inputs", "hydra", "out")
"""Keys of demo.yaml that say nothing of how is drawn; all others go on to generate.py."""

_SWEEP_S = 60.0


@dataclass
class DemoConfig:
    """What `demo.py` reads."""

    weights: Any = MISSING
    """A `weights/*.safetensors` of a run, or `released:<system>`; a list: several, of any systems."""
    host: str = MISSING
    """Address to listen at; other than this machine's own only with `password`."""
    port: int | None = None
    """null: the first free one from 7860 on."""
    password: str | None = None
    """That visitors must give."""
    share: bool = False
    """Ask Gradio for a public link, which goes through its servers."""
    limits: Any = MISSING
    """See `runs.demo.limits.Limits`."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Kind of input → files to try, as pip:<distribution>/<file>."""
    inputs: Any = MISSING
    """Inputs of the systems that visitors do not give, such as inputs.audio2mesh=…"""
    device: str = MISSING
    precision: str = MISSING
    deterministic: bool = False
    interpolation: Any = MISSING
    faces: Any = MISSING
    sampling: Any = MISSING
    model: Any = MISSING
    paths: PathsConfig = field(default_factory=PathsConfig)


ConfigStore.instance().store(name="demo_schema", node=DemoConfig)


def demo(config: DictConfig) -> None:
    """Serve the page until Ctrl-C; all its files are removed then.

    Raises:
        ValueError: a setting or weights cannot be used, or Gradio is not installed.
    """

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)  # so that the files are removed then, too
    try:
        with started(config, HydraConfig.get().overrides.task) as address:
            log.info("the page is at %s (Ctrl-C ends it)", address)
            threading.Event().wait()
    except KeyboardInterrupt:
        log.info("the page is closed")


@contextmanager
def started(config: DictConfig, words: Sequence[str]) -> Iterator[str]:
    """The page, served as long as the context lasts; its address.

    Args:
        words: overrides of the command line, which `config` was composed with.

    Raises:
        ValueError: see `demo`.
    """
    check_address(config.host, config.password, share=config.share)
    limits = Limits(**config.limits)
    files = [config.weights] if isinstance(config.weights, str) else list(config.weights)
    if not files:
        raise ValueError("weights: give a weights/*.safetensors of a run, or a list of them")
    carried = [word for word in words if _key(word) not in _OWN]
    composed = [compose("generate", [override("weights", file), "out=demo", *carried]) for file in files]
    chosen = [choose(each) for each in composed]
    fixed = _fixed(config, chosen)
    with tempfile.TemporaryDirectory(prefix="portraitgen-demo-") as folder:
        root = Path(folder)
        os.environ |= {"GRADIO_TEMP_DIR": str(root / "uploads"), "GRADIO_ANALYTICS_ENABLED": "False"}
        try:
            importlib.import_module("gradio")
        except ModuleNotFoundError as error:
            raise ValueError("the page needs the extra demo. Run: pip install 'portraitgen[demo]'") from error
        # They import Gradio, which reads its environment as it is imported.
        from portraitgen.runs.demo.page import Page
        from portraitgen.runs.demo.serve import serve

        titles = _titles(files)
        offers = [
            Offer(load(each), title, file, carried, fixed, limits)
            for each, title, file in zip(chosen, titles, files, strict=True)
        ]
        for offer in offers:
            if not offer.ways:
                raise ValueError(_no_way(offer))
        examples = read_examples(OmegaConf.to_object(config.examples), root / "examples")  # type: ignore[arg-type]
        desk = Desk(limits)
        visits = Visits(root, leave=desk.leave, idle_s=60 * limits.idle_minutes)
        faces = chosen[0].config.faces  # of released weights those that they know
        look = Look(lambda: instantiate(faces, _convert_="all"), limits)
        page = Page(offers, visits=visits, desk=desk, look=look, examples=examples)
        address = serve(
            page,
            visits,
            limits,
            host=config.host,
            port=config.port,
            password=config.password,
            share=config.share,
            examples=root / "examples",
        )
        sweeper = Sweeper(page.sweep, every_s=_SWEEP_S)
        try:
            yield address
        finally:
            desk.close()
            page.blocks.close()
            sweeper.close()


def _key(word: str) -> str:
    """`inputs` of `+inputs.head=x.mp4`."""
    return word.partition("=")[0].lstrip("+~").partition(".")[0].partition("@")[0]


def _fixed(config: DictConfig, chosen: Sequence[Chosen]) -> dict[str, Any]:
    """Inputs that visitors do not give.

    Raises:
        ValueError: no system takes one.
    """
    given = {f"inputs.{name}": value for name, value in config.inputs.items()}
    known = {each.name for one in chosen for each in one.inputs.inputs}
    for name in given:
        if name not in known:
            systems = ", ".join(dict.fromkeys(one.described.system for one in chosen))
            raise ValueError(f"{name}: {systems} takes it not{did_you_mean(name, known)}")
    return {name: OmegaConf.to_object(v) if OmegaConf.is_config(v) else v for name, v in given.items()}


def _titles(files: Sequence[str]) -> list[str]:
    """What tells the files apart: `stage2/last` of runs/quickstart/stage2/weights/last.safetensors."""
    plain = [Path(file.partition(":")[2] or file) for file in files]
    parts = [[part for part in path.with_suffix("").parts if part != "weights"] for path in plain]
    longest = max(map(len, parts))
    for count in range(2, longest):
        titles = ["/".join(each[-count:]) for each in parts]
        if len(set(titles)) == len(files):
            return titles
    return ["/".join(each[-longest:]) for each in parts]


def _no_way(offer: Offer) -> str:
    ways = "".join(f"\n  {way.usage}  ({way.meaning})" for way in offer.loaded.chosen.inputs.ways)
    return (
        f"weights={offer.weights}: a visitor can give nothing that this takes; set what lies here, "
        f"such as inputs.audio2mesh=…:{ways}"
    )
