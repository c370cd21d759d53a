"""What acts: one outside library, one file."""
