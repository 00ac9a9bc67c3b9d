"""The image server: IMGAPI and DSAPI for other hosts, from the library."""
