"""One image file on its way: ranges into a spool, and from there a verified stream."""
