"""What `atrous predict` is made of: predict.py calls it."""
