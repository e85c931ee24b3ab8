"""What a graph computes and what our model computes, in the same terms, and where they differ."""
