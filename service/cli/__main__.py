"""`python -m service.cli` is `attune`."""

from service.cli.main import main

main()
