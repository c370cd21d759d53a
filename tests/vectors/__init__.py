"""What is written down for other implementations, and what writes it."""
