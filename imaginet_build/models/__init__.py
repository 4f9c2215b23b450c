"""The small models that ship, and the commands that trained them."""
