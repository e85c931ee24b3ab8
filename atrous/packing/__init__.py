"""What `atrous pack` is made of: pack.py calls it."""
