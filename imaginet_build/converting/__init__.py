"""Upstream checkpoints as plain tensors: read without running them, in a process shut in, and renamed by tables."""
