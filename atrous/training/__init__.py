"""What `atrous train` is made of: train.py is the loop that calls it."""
