"""`meshq`, and `python -m meshq`."""

import sys


def main() -> None:
    if sys.argv[1:] == ["--version"]:  # scripts ask this often, and need no parser for it
        from meshq import __version__

        print(f"meshq {__version__}")
        return
    from meshq.cli.main import app

    app(prog_name="meshq")


if __name__ == "__main__":
    main()
