"""Build, clean, publish and benchmark data sets for telling synthetic images from real ones."""

__version__ = "0.1.0"
