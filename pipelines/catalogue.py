"""The pipelines by name. Their modules import kfp, so each is imported when it is asked for."""

import importlib
from typing import Any

from mailtriage.errors import ConfigError, nearest

NAMES = ("training",)


def load(name: str) -> Any:
    """The KFP pipeline of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in NAMES:
        raise ConfigError(f"there is no pipeline '{name}'{nearest(name, NAMES) or ', only ' + ', '.join(NAMES)}")
    return getattr(importlib.import_module(f"pipelines.{name}"), name)
