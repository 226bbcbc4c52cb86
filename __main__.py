"""`python -m paretune`."""

from .cli import main

main()
