"""What the variables of each other program are called here, one part a program."""
