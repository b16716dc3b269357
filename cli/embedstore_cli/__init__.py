"""The command line of embedstore."""
