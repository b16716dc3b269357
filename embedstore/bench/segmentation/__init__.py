"""What the task `segment` is made of: its classes, maps of pictures, figures and overlays."""
