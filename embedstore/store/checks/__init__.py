"""Whether a store holds what it promises, and how damage is taken out of it."""
