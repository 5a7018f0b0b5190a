"""The playground: a page on this machine's loopback that asks a trained model for images."""
