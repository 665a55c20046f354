"""Train one stage: python train.py experiment=aniportrait/stage1 data.shards=… (conf/train.yaml)."""

from portraitgen.runs.config.subcommands import TRAIN, run_subcommand

if __name__ == "__main__":
    run_subcommand("train.py", TRAIN)
