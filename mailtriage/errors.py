"""Everything that mailtriage raises on purpose.

    MailtriageError
    ├── ConfigError            a configuration key or value that is not known or not allowed
    ├── DataError              a file of mails that cannot be read
    │   └── InvalidMail        one mail that cannot be used; the others of its batch go on
    ├── TaxonomyError          a taxonomy that contradicts itself, or a label that it does not have
    ├── EncoderError           an encoder that cannot be found or read
    ├── BundleError            a bundle that must not be served
    │   ├── BundleFileMissing
    │   ├── BundleChecksumMismatch
    │   └── UnknownCleaningVersion
    ├── ExportError            an exported model that answers differently from the trained one
    ├── RegistryError          the model registry lacks what was asked for
    ├── RayJobFailed           training on a cluster did not end well
    ├── KubernetesError        what a cluster's API server does not do
    │   ├── Unreachable        ... because it gives no usable answer
    │   └── Refused            ... because of rights, quota, or an object that is not valid
    └── ServingError           a server that did not start, or is gone

A message says what was expected, what was found, where, and what to do. It never holds the text of a mail.
"""

import difflib
from collections.abc import Iterable


class MailtriageError(Exception):
    """Base of all errors of this package."""


class ConfigError(MailtriageError):
    """A configuration key or value that is not known or not allowed."""


class DataError(MailtriageError):
    """A file of mails that cannot be read."""


class InvalidMail(DataError):
    """One mail that cannot be used.

    `code` is stable and short (`no_text`, `wrong_type`, ...), for programs; the message is for people.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class TaxonomyError(MailtriageError):
    """A taxonomy that contradicts itself, or a label that it does not have."""


class EncoderError(MailtriageError):
    """An encoder that cannot be found or read."""


class BundleError(MailtriageError):
    """A bundle that must not be served."""


class BundleFileMissing(BundleError):
    """A file that the manifest names is not in the bundle."""


class BundleChecksumMismatch(BundleError):
    """A file of the bundle is not the one that was written."""


class UnknownCleaningVersion(BundleError):
    """The bundle was trained on text cleaned by a version that this code does not have."""


class ExportError(MailtriageError):
    """An exported model that answers differently from the trained one."""


class RegistryError(MailtriageError):
    """The model registry lacks what was asked for."""


class RayJobFailed(MailtriageError):
    """Training on a cluster did not end well.

    `reason` is for programs: KubeRay's own (`AppFailed`, `DeadlineExceeded`, `PreRunningDeadlineExceeded`, ...), or
    `Deleted`, `CannotStart`, `Busy`, `NoController`, `Unreachable`, `Refused`; the message is for people.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class KubernetesError(MailtriageError):
    """What a cluster's API server does not do."""


class Unreachable(KubernetesError):
    """The API server gave no usable answer for as long as we were ready to wait."""


class Refused(KubernetesError):
    """The API server refuses, and will go on refusing: rights, quota, or an object that is not valid."""


class ServingError(MailtriageError):
    """A server that did not start, or is gone."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as `, did you mean 'encoder'?`, or nothing where no known name is near."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f", did you mean '{found[0]}'?" if found else ""
