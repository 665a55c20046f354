"""Grade generated clips: python evaluate.py generated=… (conf/evaluate.yaml)."""

from omegaconf import DictConfig

from portraitgen.runs.command import command


def main(config: DictConfig) -> None:
    from portraitgen.runs.evaluate import evaluate  # loads torch, once the configuration has composed

    evaluate(config)


if __name__ == "__main__":
    command(main, config_name="evaluate")
