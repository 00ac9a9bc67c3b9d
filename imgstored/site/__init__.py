"""The form of a static site of images, and its signatures, which are minisign's. No I/O."""
