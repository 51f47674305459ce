"""Runs the command as ``python -m streamstore.cli``."""

from streamstore.cli import main

main()
