"""The agent server that the preflight guards: health, diagnostics and chat."""
