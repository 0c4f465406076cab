"""The suite that every server has: ``pytest --pyargs preflight.requirements``. Nobody imports it but pytest."""
