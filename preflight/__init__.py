"""Requirements as tests, a verdict that fails closed, and a server that starts only behind it."""

__version__ = "0.1.0"
