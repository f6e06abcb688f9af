"""`python -m budgerigar` is `budgie`."""

from budgerigar.cli import main

main()
