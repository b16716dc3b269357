"""From values to stored bits and back: what each policy does, learns and loses."""
