"""Whether all that is on the disk belongs together: whole images, and nothing that belongs to none."""
