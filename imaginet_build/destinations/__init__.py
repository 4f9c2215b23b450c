"""Where a release goes: the Hugging Face Hub, a folder, an address."""
