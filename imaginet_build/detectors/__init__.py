"""Detectors: each looks at images its own way and says how likely each is synthetic. The catalogue finds them by dotted
path."""
