"""The command `meshq`: arguments in, exit code out."""
