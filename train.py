"""Train one stage: python train.py experiment=aniportrait/stage1 data.shards=… (conf/train.yaml)."""

from portraitgen.runs.config.command import command
from portraitgen.runs.train.train import train

if __name__ == "__main__":
    command(train, config_name="train")
