"""API keys: who may call the gateway. A YAML file with a line `NAME: KEY` a client, or a folder with a file a client.

The folder is what a mounted Kubernetes Secret looks like: file name = client, content = key.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mailtriage.errors import ConfigError

ENVIRONMENT = "MAILTRIAGE_API_KEYS"
SHORTEST_KEY = 16
WHAT = "the API keys"
_CLIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def load_api_keys(
    file: Path | None, default: Path, environment: Mapping[str, str] = os.environ
) -> tuple[dict[str, str], str]:
    """The keys by client name, and where they come from: `file`, else the environment, else `default`.

    `default` is made, with one random key and readable by its owner only, where it is missing.

    Raises:
        ConfigError: the keys cannot be read, or one cannot be used; the message never holds a key.
    """
    if file is not None:
        return read_api_keys(file), str(file)
    if environment.get(ENVIRONMENT):
        return parse_api_keys(environment[ENVIRONMENT], ENVIRONMENT), ENVIRONMENT
    if not default.exists():
        write_private(default, f"local: {secrets.token_urlsafe(32)}\n")
    return read_api_keys(default), str(default)


def read_api_keys(place: Path) -> dict[str, str]:
    """The keys of a file or a folder by client name; raises as `load_api_keys` does."""
    if not place.is_dir():
        return parse_api_keys(read_file(place, WHAT), str(place))
    files = sorted(entry for entry in place.iterdir() if not entry.name.startswith(".") and entry.is_file())
    if not files:
        raise ConfigError(f"expected a file a client in {place}, found none")
    return _checked({file.name: read_file(file, WHAT).strip() for file in files}, str(place))


def parse_api_keys(text: str, source: str) -> dict[str, str]:
    """Read `NAME: KEY` lines; raises as `load_api_keys` does."""
    try:
        keys = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"expected lines such as 'crm: KEY' in {source}, found no YAML") from None
    if not isinstance(keys, dict) or not keys:
        raise ConfigError(f"expected lines such as 'crm: KEY' in {source}, found none")
    return _checked(keys, source)


def _checked(keys: dict[Any, Any], source: str) -> dict[str, str]:
    for client, key in keys.items():
        if not isinstance(client, str) or not _CLIENT.fullmatch(client):
            raise ConfigError(f"a client name in {source} has other characters than letters, digits, '.', '_' and '-'")
        if (
            not isinstance(key, str)
            or len(key) < SHORTEST_KEY
            or not key.isascii()
            or not key.isprintable()
            or " " in key
        ):
            raise ConfigError(
                f"the key of '{client}' in {source} must be {SHORTEST_KEY} or more printable characters, as text"
            )
    if len(set(keys.values())) != len(keys):
        raise ConfigError(f"two clients in {source} share one key")
    return keys


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)


def read_file(file: Path, what: str) -> str:
    """The text of a file of the operator's; `what` it is called if it cannot be read, which is a `ConfigError`."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {what} {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"cannot read {what} {file}: expected text in UTF-8") from None
