"""Creates images from datasets, machines and raw disks, and exports installed images.

manifest  what a new image says of itself; pure
compress  a stream, by all processors
output    a file that a client opened, with its size and SHA-1
maker     a dataset's snapshot, sent; nothing of it is left afterwards
prepare   a machine that a script makes ready first
export    an installed image, for another host
publish   to an image server
__main__  a disk's image; a program of its own, because it runs with the rights of its user
"""
