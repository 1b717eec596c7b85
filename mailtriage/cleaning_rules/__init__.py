"""The rules of `mailtriage.cleaning`, one module a kind of text, and what they stand on: lines, edits, HTML."""
