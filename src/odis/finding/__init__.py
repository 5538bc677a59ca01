"""From images to objects: detectors, discovery, and runs over a whole corpus."""
