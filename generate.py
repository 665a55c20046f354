"""Generate clips with trained weights: python generate.py weights=… shards=… out=… (conf/generate.yaml)."""

from omegaconf import DictConfig

from portraitgen.runs.config.command import command


def main(config: DictConfig) -> None:
    from portraitgen.runs.generate.generate import (
        generate,  # loads torch, once the configuration has composed
    )

    generate(config)


if __name__ == "__main__":
    command(main, config_name="generate")
