"""From the Bento to an image that runs."""
