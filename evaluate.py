"""Grade generated clips: python evaluate.py generated=… (conf/evaluate.yaml).

`python evaluate.py --help` lists what else it does: `compare`, `sweep`, `selftest`.
"""

from portraitgen.runs.config.subcommands import EVALUATE, run_subcommand

if __name__ == "__main__":
    run_subcommand("evaluate.py", EVALUATE, returns_memory=True)
