"""The registrar's process; `registrar` has its code."""

from preflight import bytecode

bytecode.repair()

from preflight.fleet import registrar  # noqa: E402  # its compiled file may be one that is not whole

if __name__ == "__main__":
    registrar.main()
