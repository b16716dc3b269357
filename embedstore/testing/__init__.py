"""Contract tests and small stores, shipped for everybody who adds a plug-in."""
