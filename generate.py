"""Generate with trained weights: python generate.py weights=… reference=… out=… (conf/generate.yaml).

`python generate.py --help` says what each system takes, with `weights=…` that of the weights; and what else
it does: `landmarks`, `ipvg`, `requests`.
"""

from portraitgen.runs.config.subcommands import GENERATE, run_subcommand

if __name__ == "__main__":
    run_subcommand("generate.py", GENERATE, returns_memory=True)
