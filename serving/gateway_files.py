"""What the gateway takes up without a restart: API keys, the keys of a token issuer, the TLS certificate.

Each is made from files of the operator's and put, whole and checked, into a file that Envoy follows. What cannot be
used is said and changes nothing: the gateway goes on with what it had.
"""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailtriage.errors import ConfigError
from serving.api_keys import read_api_keys, read_file, write_private
from serving.gateway import CERTIFICATE, KEYS, TOKENS, V3, resource_file
from serving.routes import API_KEY, CLIENT

# As client names, and what issuers put into subjects. No length: Envoy allows only small regular expressions.
TOKEN_SUBJECT = "[A-Za-z0-9][A-Za-z0-9._@|:-]*"

Resource = dict[str, Any]
Fingerprint = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class TokenIssuer:
    """Whose JWTs are accepted: signed by a key of the file `jwks`, from `issuer`, for one of `audiences`."""

    jwks: Path
    issuer: str
    audiences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A certificate with the chain below it, and its private key, as PEM files."""

    certificate: Path
    key: Path


@dataclass
class Followed:
    """One resource, made by `make` from the files `sources`; `what` it is called in messages."""

    name: str
    what: str
    sources: tuple[Path, ...]
    make: Callable[[], Resource]
    seen: Fingerprint = ()


class GatewayFiles:
    """The files that Envoy follows, in `folder`, and the operator's files that they are made from.

    Args:
        folder: where the files go, readable by their owner only.
        followed: what is followed.
    """

    def __init__(self, folder: Path, followed: Sequence[Followed]) -> None:
        self._folder = folder
        self._followed = list(followed)

    def write(self) -> None:
        """Write all files, before Envoy starts.

        Raises:
            ConfigError: one of the operator's files cannot be used.
        """
        for followed in self._followed:
            followed.seen = _fingerprint(followed.sources)
            self._put(followed)

    def refresh(self) -> list[str]:
        """Write anew what has changed since; lines that say what was taken up, and what could not be."""
        lines = []
        for followed in self._followed:
            now = _fingerprint(followed.sources)
            if now == followed.seen:
                continue
            followed.seen = now
            try:
                self._put(followed)
                lines.append(f"took up the changed {followed.what}")
            except ConfigError as error:
                lines.append(f"kept the {followed.what} as before: {error}")
        return lines

    def remove(self) -> None:
        """Remove the files: they hold secrets."""
        for followed in self._followed:
            resource_file(self._folder, followed.name).unlink(missing_ok=True)

    def _put(self, followed: Followed) -> None:
        target = resource_file(self._folder, followed.name)
        fresh = target.with_suffix(".new")
        write_private(fresh, json.dumps({"resources": [followed.make()]}))
        fresh.replace(target)  # Envoy reads a file when it is moved to its place, so never half of it


def followed_keys(source: Path | None, keys: Mapping[str, str]) -> Followed:
    """The API keys: those of the file or folder `source`, or `keys` for ever where there is none."""
    if source is None:
        return Followed(KEYS, "API keys", (), lambda: _key_filter(keys))
    return Followed(KEYS, "API keys", (source,), lambda: _key_filter(read_api_keys(source)))


def followed_tokens(issuer: TokenIssuer) -> Followed:
    return Followed(TOKENS, "token issuer's keys", (issuer.jwks,), lambda: _token_filter(issuer))


def followed_certificate(files: TlsFiles) -> Followed:
    return Followed(CERTIFICATE, "TLS certificate", (files.certificate, files.key), lambda: _certificate(files))


def _key_filter(keys: Mapping[str, str]) -> Resource:
    return _extension(
        KEYS,
        "ApiKeyAuth",
        credentials=[{"client": client, "key": key} for client, key in keys.items()],
        key_sources=[{"header": API_KEY}],
        forwarding={"header": CLIENT, "hide_credentials": True},
    )


def _token_filter(issuer: TokenIssuer) -> Resource:
    provider = {
        "issuer": issuer.issuer,
        "audiences": list(issuer.audiences),
        "local_jwks": {"inline_string": _read_jwks(issuer.jwks)},
        "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}],
        "claim_to_headers": [{"header_name": CLIENT, "claim_name": "sub"}],
        # Whoever has no name could not be told apart, neither in the log nor by the rate limit.
        "subjects": {"safe_regex": {"regex": TOKEN_SUBJECT}},
        "require_expiration": True,
    }
    rule = {"match": {"prefix": "/"}, "requires": {"provider_name": "issuer"}}
    return _extension(TOKENS, "JwtAuthentication", providers={"issuer": provider}, rules=[rule])


def _extension(name: str, kind: str, **fields: Any) -> Resource:
    return {
        "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        "name": f"envoy.filters.http.{name}",
        "typed_config": {"@type": f"{V3}.filters.http.{name}.v3.{kind}", **fields},
    }


def _read_jwks(file: Path) -> str:
    """A JSON Web Key Set of public keys (RFC 7517)."""
    text = read_file(file, "the token issuer's keys")
    try:
        keys = json.loads(text)["keys"]
        kinds = [key["kty"] for key in keys]
    except (ValueError, KeyError, TypeError):
        kinds = []
    if not kinds:
        raise ConfigError(f'expected a JSON Web Key Set, {{"keys": [...]}}, in {file}')
    if "oct" in kinds or any("d" in key for key in keys):
        raise ConfigError(f"expected public keys only in {file}, found a secret one")
    return text


def _certificate(files: TlsFiles) -> Resource:
    chain, key = read_file(files.certificate, "the TLS certificate"), read_file(files.key, "the TLS key")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key, password="")
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or "not readable"
        raise ConfigError(f"{files.certificate} and {files.key} are no certificate with its key: {reason}") from None
    return {
        "@type": f"{V3}.transport_sockets.tls.v3.Secret",
        "name": CERTIFICATE,
        "tls_certificate": {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}},
    }


def _fingerprint(places: Sequence[Path]) -> Fingerprint:
    """Changes with any of the files, also when a mounted Secret's link turns to another folder."""
    found = []
    for place in places:
        for entry in (place, *sorted(place.glob("*"))):
            with contextlib.suppress(OSError):  # gone: found once more when it is there again
                status = entry.stat()
                found.append((str(entry), status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)
