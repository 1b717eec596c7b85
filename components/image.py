"""The images in which components run on a cluster: stages of the Dockerfile."""

import mailtriage

PLATFORM_IMAGE = f"docker.io/mailtriage/platform:{mailtriage.__version__}"  # without torch and Ray
TRAINING_IMAGE = f"docker.io/mailtriage/training:{mailtriage.__version__}"
