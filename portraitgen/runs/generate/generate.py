"""Generate with trained weights, and write the results where evaluate.py finds them."""

import logging
import time

from omegaconf import DictConfig

from portraitgen.runs.generate.formats import result_folder, write_single_file
from portraitgen.runs.generate.given import what_is_wanted
from portraitgen.runs.generate.loaded import choose, load
from portraitgen.runs.generate.result_list import ResultList
from portraitgen.runs.progress import progress

log = logging.getLogger(__name__)


def generate(config: DictConfig) -> None:
    """Write into `config.out` each clip or picture, for clips a comparison video, and a contact sheet.

    `samples.jsonl` has a row for each, with all that made it and that it takes to grade it. Results that lie
    there already stay: one of the same name that was made otherwise gets a name of its own.

    Raises:
        ValueError: a setting, the weights, or what was given cannot be used. What the system does not take is
            refused before the weights are read.
    """
    chosen = choose(config)
    config = chosen.config
    wanted = what_is_wanted(config, chosen.inputs, chosen.described.facts, name=chosen.described.system)
    results = ResultList(result_folder(config.out))
    loaded = load(chosen)
    begin = time.perf_counter()
    for row in loaded.write(wanted, results, progress=progress):
        now = time.perf_counter()
        place = results.folder / str(row.get("video") or row["image"])
        log.info("%s: %d frame(s) in %.1f s: %s", row["key"], len(row["frames"]), now - begin, place)
        begin = now
    written = results.mine()
    if not written and config.share is not None:
        log.info(
            "share=%s: nothing to generate, there are fewer clips or rows than shares", list(config.share)
        )
        return
    if not written:
        raise ValueError(f"no clip of {config.shards} shows a face within {list(config.span)} of its frames")
    if (path := write_single_file(config.out, results)) is not None:
        log.info("written: %s", path)
    log.info("%d sample(s) listed in %s", len(results), results.path)
