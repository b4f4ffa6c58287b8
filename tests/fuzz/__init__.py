"""What others write, damaged at random: every answer is one message and a documented exit code."""
