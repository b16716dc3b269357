"""The source `webdataset:PATTERN`: tars, read from their headers."""
