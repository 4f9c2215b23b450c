"""A release: its files, card, rights, versions, and how it is written and restored."""
