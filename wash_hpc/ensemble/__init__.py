"""What is done with members: one flat vector each, soups of them, statistics, distances. No communication."""
