"""``python -m structdecode``."""

from structdecode.cli.main import main

main()
