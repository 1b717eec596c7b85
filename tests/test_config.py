"""Configurations: every shipped one reads, and a wrong one says what is wrong."""

from pathlib import Path

import pytest

from mailtriage.config import TrainingConfig, load_config
from mailtriage.errors import ConfigError

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_read_and_find_their_taxonomy(path: Path) -> None:
    assert Path(load_config(path).taxonomy).is_file()


def test_production_uses_the_german_encoder() -> None:
    production = next(path for path in CONFIGS if path.stem == "production")

    assert load_config(production).encoder == "distilbert-base-german-cased"


def test_an_unknown_key_names_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match="unknown key 'learning_rat', did you mean 'learning_rate'"):
        TrainingConfig.parse("learning_rat: 0.1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 0", "'epochs'"),
        ("pooling: max", "'pooling'"),
        ("- a list", "found list"),
        ("epochs: [", "no YAML"),
        ("name: Not A Name", "'name'"),
    ],
)
def test_a_wrong_value_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingConfig.parse(text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")
