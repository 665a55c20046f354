"""What tests of features share: the command, through its real configuration."""

import pytest
from hydra import compose, initialize_config_dir

from portraitgen.runs.config.schema import register_configs
from portraitgen.runs.prepare.compute_features import compute_features


@pytest.fixture
def run(repository, caplog):
    """Compute features with overrides of conf/prepare_features.yaml; gives what was said."""

    def with_overrides(*words):
        register_configs()
        with initialize_config_dir(str(repository / "conf"), version_base="1.3"):
            config = compose("prepare_features", list(words))
        caplog.clear()
        with caplog.at_level("INFO", logger="portraitgen.runs.prepare.compute_features"):
            compute_features(config)
        return caplog.messages

    return with_overrides
