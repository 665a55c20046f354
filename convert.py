"""Weights of others as ours, and back: python convert.py kind=… source=… out=… (conf/convert.yaml)."""

from omegaconf import DictConfig

from portraitgen.runs.config.command import command


def main(config: DictConfig) -> None:
    from portraitgen.runs.convert import convert  # loads torch, once the configuration has composed

    convert(config)


if __name__ == "__main__":
    command(main, config_name="convert")
