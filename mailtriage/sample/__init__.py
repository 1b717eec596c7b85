"""Synthetic mails of a brokerage and wealth manager's clients, German and English, with the labels of `taxonomy.yaml`.

Nothing in them was ever written by a client; `docs/sample-data.md` says what is in them and what is not.
"""

from mailtriage.sample.generator import generate, write_sample

__all__ = ["generate", "write_sample"]
