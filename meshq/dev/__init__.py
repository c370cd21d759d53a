"""`meshq dev`: several apps and their sidecars on one machine."""
