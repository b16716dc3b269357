"""Named rows of a store: written once, checked at every read, found by id in any other store."""
