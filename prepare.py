"""Turn videos or photos into shards: python prepare.py source=videos/ out=shards/mine (conf/prepare.yaml).

`python prepare.py --help` lists what else it does, such as `python prepare.py verify out=shards/mine`.
"""

from portraitgen.runs.config.subcommands import PREPARE, run_subcommand

if __name__ == "__main__":
    run_subcommand("prepare.py", PREPARE)
