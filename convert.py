"""Weights of others as ours, and back: python convert.py kind=… source=… out=… (conf/convert.yaml).

`python convert.py --help` lists the kinds of each system.
"""

from portraitgen.runs.config.subcommands import CONVERT, run_subcommand

if __name__ == "__main__":
    run_subcommand("convert.py", CONVERT)
