"""embedstore: encode once, align many times."""
