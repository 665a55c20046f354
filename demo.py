"""A page to try trained weights: python demo.py weights=… (conf/demo.yaml)."""

from portraitgen.runs.config.subcommands import DEMO, run_subcommand

if __name__ == "__main__":
    run_subcommand("demo.py", DEMO)
