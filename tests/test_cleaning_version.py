"""What is left of our mails may change only with CLEANING_VERSION.

`python tests/test_cleaning_version.py` adds new mails to the pins, and replaces pins only after the version was raised.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from mailtriage.cleaning import CLEANING_VERSION, clean
from mailtriage.mime import read_message

FIXTURES = Path(__file__).parent / "fixtures"
PINS = FIXTURES / "cleaning_version.json"


def results() -> dict[str, str]:
    """A short hash of what is left of each mail."""
    found = {}
    for path in sorted((FIXTURES / "mails").glob("*.eml")):
        mail = read_message(path.read_bytes(), path.stem).mail
        cleaned = clean(mail.body, mail.subject)
        found[path.stem] = hashlib.sha256(json.dumps([cleaned.subject, cleaned.text]).encode()).hexdigest()[:16]
    return found


def test_what_is_left_of_a_mail_changes_only_with_the_version() -> None:
    pins = json.loads(PINS.read_text(encoding="utf-8"))
    now = results()

    changed = [name for name, pin in pins["mails"].items() if name in now and now[name] != pin]

    assert not changed or pins["version"] != CLEANING_VERSION, f"raise CLEANING_VERSION: {changed} come out differently"
    assert pins == {"version": CLEANING_VERSION, "mails": now}, f"run python tests/{Path(__file__).name}"


def pin() -> None:
    pins = json.loads(PINS.read_text(encoding="utf-8")) if PINS.exists() else {"version": "", "mails": {}}
    now = results()
    changed = [name for name, pin in pins["mails"].items() if name in now and now[name] != pin]
    if changed and pins["version"] == CLEANING_VERSION:
        raise SystemExit(f"raise CLEANING_VERSION first: {', '.join(changed)} come out differently")
    PINS.write_text(json.dumps({"version": CLEANING_VERSION, "mails": now}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    pin()
