"""What `ease` is made of: the toy world, and the lowest loss of a linear map."""
