"""How files are read, whatever source they belong to: bounded, on this machine or behind a URL."""
