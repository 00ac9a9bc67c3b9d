"""Imports: what is wanted, what there is to do, and how each image gets into its pool."""
