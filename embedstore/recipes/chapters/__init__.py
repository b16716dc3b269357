"""What a bench's page tells of each task: from a report and what was found to blocks of `recipes/page`."""
