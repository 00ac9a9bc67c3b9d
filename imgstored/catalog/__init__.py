"""What is installed: the pools' images, their manifests in imgadm's files, and who is at work on them."""
