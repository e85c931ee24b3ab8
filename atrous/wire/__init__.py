"""How bytes lie in files of other programs, below any one format: protocol buffers, CRC-32C, records of TensorFlow."""
