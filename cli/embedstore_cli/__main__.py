"""`python -m embedstore_cli`, the same as `embedstore`."""

from embedstore_cli.app import main

main()
