"""From rows and lines to samples: what several sources share."""
