"""The daemon's HTTP/1.1 server: metrics, and images for other hosts.

    accept ──► trio waits for a request ──► a thread reads it, calls the application, and sends the answer

A thread sends a file by sendfile(2) without holding up anybody else: trio's thread never sees the bytes.
h11 parses and frames, Werkzeug has the rules of ranges and conditional requests, and of routes.
"""
