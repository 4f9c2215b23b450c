"""Which images are one: hashes within a distance, across data sets, by embedding."""
