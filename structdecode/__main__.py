"""``python -m structdecode``."""

from structdecode.cli import main

main()
