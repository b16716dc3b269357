"""What the task `probe` is made of: vectors to learn from, and what is trained on them."""
