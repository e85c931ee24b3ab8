"""What `atrous bench` is made of: its rows, what can be measured, the turns, and the tables."""
