"""What `collect` knows of an image that came, of quotas, and of matching reals to synthetics."""
