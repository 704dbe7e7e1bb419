"""What plans cost at a length that they were not made at, and which is best."""
