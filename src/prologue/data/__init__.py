"""From a source of images to batches: sources, shards, images, transforms, loader."""
