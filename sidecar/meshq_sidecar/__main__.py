"""`meshq-sidecar`: settings from the environment, one sidecar, until SIGTERM."""

import os
import sys

from meshq.settings import EXIT_BAD_SETTINGS, BadSettings, load_apart, with_instance


def main() -> None:
    """The console script. Exits with 0 after a drain, with 64 for settings that cannot be."""
    settings = load_apart(os.environ)
    from meshq_sidecar.program import run  # meanwhile: the start is what an autoscaler waits for

    try:
        sys.exit(run(with_instance(settings())))
    except BadSettings as bad:
        for fault in bad.faults:
            print(f"meshq-sidecar: {fault}", file=sys.stderr)
        sys.exit(EXIT_BAD_SETTINGS)


if __name__ == "__main__":
    main()
