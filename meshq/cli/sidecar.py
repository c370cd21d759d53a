"""`meshq sidecar`."""


def sidecar() -> None:
    """Run one sidecar, as MESHQ_* says.

    Settings are in MESHQ_* and in the file that MESHQ_CONFIG names; SIGTERM drains it.
    """
    from meshq_sidecar.__main__ import main

    main()
