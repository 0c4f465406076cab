"""The sender's process; `sender` has its code."""

from preflight import bytecode

bytecode.repair()

from preflight.notify import sender  # noqa: E402  # its compiled file may be one that is not whole

if __name__ == "__main__":
    sender.main()
