"""Turn videos or photos into shards: python prepare.py source=videos/ out=shards/mine (conf/prepare.yaml)."""

from portraitgen.runs.command import command
from portraitgen.runs.prepare import prepare

if __name__ == "__main__":
    command(prepare, config_name="prepare")
