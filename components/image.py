"""The image in which every component runs on a cluster (the `training` stage of the Dockerfile)."""

import mailtriage

TRAINING_IMAGE = f"docker.io/mailtriage/training:{mailtriage.__version__}"
