"""Installed images: the catalog of the pools' images, imgadm's files of them, locks, holds, deletions."""
