"""`python -m edgelift.cli`."""

from edgelift.cli import main

main()
